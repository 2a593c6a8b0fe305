"""Folders of models for the Hugging Face Hub, and models downloaded from it."""

import http.server
import json
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors
import yaml
from huggingface_hub import ModelCard, constants
from PIL import Image

import progdist
from progdist import checkpoint, teachers
from progdist.commands import export, sample
from progdist.export import hub
from progdist.export.write import card_of
from progdist.sampling import cards, hub as hub_of_models
from progdist.workdir.rows import EvalRow
from tests.commands import answer
from tests.models import CLASSES, write_models
from tests.workdirs import evaluation

COMMIT = "0123456789" * 4
AWKWARD = [
    'a "quoted" cat',
    "it's a dog",
    "two\nlines",
    "a | pipe",
    "<script>alert(1)</script>",
    "`code` and ```",
    "---",
    "- [link](x)",
    "#1: {x}",
    "café 😀",
    "back\\slash",
    "",
    "\x00\x1b[31m",
    "\udcff",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A student of one step with classes, whose distance has been measured."""
    path = write_models(tmp_path_factory.mktemp("runs") / "pets", num_classes=3)
    rows = [
        evaluation(2, "student", "ddim", 1, 3.25) | {"trained_steps": 1},
        evaluation(2, "student", "ancestral", 1, 4.0) | {"trained_steps": 1},
        evaluation(2, "student", "ddim", 1, 1e-7, "KID-pixels") | {"trained_steps": 1},
        evaluation(2, "student", "ddim", 1, float("nan"), "IS") | {"trained_steps": 1},
    ]
    directory = checkpoint.model_dir(path, 2, 1)
    cards.write_distances(directory, [EvalRow(**row) for row in rows])
    return progdist.load(directory)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The folder, with pictures of a quick sampler."""
    path = tmp_path_factory.mktemp("exported") / "hub"

    def draw(self, num, **_):
        return np.full((num, *self.image_shape), 100, np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progdist.Pretrained, "sample", draw)
        hub.write(path, model, card_of(model))
    return path


def blocks(text):
    """Content of the Python blocks of a README."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# --- the folder


def test_the_folder_holds_card_parameters_readme_and_samples(folder, model):
    names = {"README.md", "config.json", "model.safetensors", "samples.png"}
    assert {path.name for path in folder.iterdir()} == names
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("library_name") == "progdist"
    assert config["net"] == json.loads(json.dumps(model.card["net"]))
    with safetensors.safe_open(folder / "model.safetensors", "np") as file:
        assert len(list(file.keys())) > 10
        notes = file.metadata()
    assert notes.keys() == config.keys()
    for name, value in config.items():
        found = notes[name] if isinstance(value, str) else json.loads(notes[name])
        assert repr(found) == repr(value)  # there is a NaN among the values
    with Image.open(folder / "samples.png") as picture:
        assert min(picture.size) > 8
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


def test_the_hub_reads_the_metadata(folder):
    card = ModelCard.load(folder / "README.md")
    data = card.data
    assert data.library_name == "progdist"
    assert {"diffusion", "progressive-distillation"} <= set(data.tags)
    assert data.pipeline_tag is None  # the Hub has none for classes
    assert data.model_name == "digits"
    found = [
        (r.task_type, r.dataset_name, r.dataset_type, r.metric_type, r.metric_value)
        for r in data.eval_results
    ]
    where = "image-generation", "digits", "digits"
    assert found == [(*where, "FD-pixels", 3.25), (*where, "KID-pixels", 1e-7)]


def test_without_classes_and_distances_there_is_no_table(model):
    more = {"num_classes": 0, "class_names": [], "distances": [], "data": None}
    card = ModelCard(hub.model_card(card_of(model) | more, 1234))
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert card.data.eval_results is None
    assert "Distance to the data" not in card.text
    assert "label=" not in card.text
    assert "1,234 parameters" in card.text


def test_the_readme_says_what_the_model_is(folder):
    text = (folder / "README.md").read_text()
    assert "\n# digits, 8x8 grey, in 1 network call\n" in text
    assert "a student of progressive distillation, round 2" in text
    assert "\n| FD-pixels | its data | 3.25 | – | 2,000 |\n" in text
    assert "\nClasses: `cat`, `dog`, `great owl`.\n" in text
    assert "Trained on 1,797 images of digits (train) by progdist" in text
    assert "\n![Samples](samples.png)\n" in text


def test_the_example_of_the_readme_runs(folder):
    (code,) = blocks((folder / "README.md").read_text())
    names = {}
    exec(code.replace("PATH", str(folder)), names)
    assert names["images"].shape == (16, 8, 8, 1)
    assert names["images"].dtype == np.uint8


# --- names of classes that mean something to YAML, Markdown, HTML or Python


@pytest.mark.parametrize("name", AWKWARD)
def test_a_readme_survives_the_name_of_a_class(name, model):
    card = card_of(model) | {"class_names": [name, "dog", "owl"]}
    text = hub.model_card(card, 1)
    text.encode()
    plain = ModelCard(hub.model_card(card_of(model), 1))
    read = ModelCard(text)
    assert read.data.to_dict() == plain.data.to_dict()
    assert len(read.text.splitlines()) == len(plain.text.splitlines())
    (code,) = blocks(text)
    line = re.search(r"label=(.*), seed=0", code)
    assert eval(line[1]) == name
    (shown,) = re.findall("^Classes: (.*), `dog`, `owl`.$", text, re.MULTILINE)
    fence = re.match("`+", shown)[0]
    assert re.fullmatch(f"{fence}(?!`).*(?<!`){fence}", shown) or not name
    assert fence not in shown[len(fence) : -len(fence)].split() or not name


@pytest.mark.parametrize("name", AWKWARD[:-4])
def test_a_readme_survives_the_name_of_the_data(name, model):
    data = {"name": name, "split": name, "count": 1, "content": ""}
    rows = [row | {"metric": name} for row in model.card["distances"][:1]]
    card = card_of(model) | {"data": data, "distances": rows}
    read = ModelCard(hub.model_card(card, 1))
    (result,) = read.data.eval_results
    assert read.data.model_name == result.dataset_name == result.metric_type == name
    assert sum(line.startswith("# ") for line in read.text.splitlines()) == 1
    table = [line for line in read.text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}
    assert "<script>" not in re.sub(r"\\<", "", read.text)


def test_front_matter_is_yaml_of_any_reader(folder):
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(front)
    assert list(values) == ["library_name", "tags", "model-index"]
    metrics = values["model-index"][0]["results"][1]["metrics"]
    assert metrics == [{"type": "KID-pixels", "value": 1e-7}]


# --- downloads


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does, with one model, me/pets, of a branch and a tag."""

    folder: Path
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        names = sorted(file.name for file in self.folder.iterdir())
        revisions = "main", "v1", COMMIT
        if path in {f"/api/models/me/pets/revision/{r}" for r in revisions}:
            siblings = [{"rfilename": name} for name in names]
            self.answer_json({"id": "me/pets", "sha": COMMIT, "siblings": siblings})
        elif path.startswith(f"/api/models/me/pets/tree/{COMMIT}"):
            self.answer_json([self.entry(name) for name in names])
        elif path.startswith(f"/me/pets/resolve/{COMMIT}/"):
            self.answer((self.folder / path.rpartition("/")[2]).read_bytes())
        else:
            code = "Revision" if "/me/pets/" in path else "Repo"
            self.answer(b"{}", 404, {"X-Error-Code": f"{code}NotFound"})

    def entry(self, name):
        size = (self.folder / name).stat().st_size
        return {"type": "file", "path": name, "size": size, "oid": name * 4}

    def answer_json(self, value):
        self.answer(json.dumps(value).encode())

    def answer(self, content, code=200, headers=None):
        self.send_response(code)
        headers = {"ETag": f'"{len(content)}"', "X-Repo-Commit": COMMIT} | (
            headers or {}
        )
        for name, value in (headers | {"Content-Length": len(content)}).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Points the client of the Hub elsewhere; without credentials and proxies."""

    def point(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "*")
    return point


@pytest.fixture
def remote(folder, client):
    """The stand-in, with its folder and the paths that it was asked for."""
    handler = type("Handler", (StandIn,), {"folder": folder, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        client(f"http://127.0.0.1:{server.server_port}")
        yield handler
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("revision", ["", "@main", "@v1", f"@{COMMIT}"])
def test_a_model_of_the_hub_is_the_one_that_was_uploaded(revision, remote, model):
    found = progdist.load(f"hf://me/pets{revision}")
    assert (found.model, found.digest) == (model.model, model.digest)
    assert (found.num_steps, found.class_names) == (1, tuple(CLASSES))
    got = {path.rpartition("/")[2] for path in remote.asked if "/resolve/" in path}
    assert got == {"config.json", "model.safetensors"}  # and nothing else
    before = len(remote.asked)
    assert progdist.load(f"hf://me/pets{revision}").digest == model.digest
    assert not [path for path in remote.asked[before:] if "/resolve/" in path]


def test_the_commands_open_a_model_of_the_hub(remote, capsys, monkeypatch, tmp_path):
    words = "hf://me/pets", "--label=dgo", f"--out={tmp_path}/a.png"
    code, error = answer(sample, *words, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert error.endswith("great owl; did you mean dog?\n")
    words = "hf://me/pets", "--steps=2", f"--out={tmp_path}/e"
    code, error = answer(export, *words, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert error.endswith(" is a student of 1 steps\n")


def test_a_teacher_may_be_on_the_hub(remote, model):
    teacher = teachers.read_teacher("hf://me/pets")
    assert teacher.card["net"] == model.card["net"]


def test_of_a_folder_of_diffusers_no_other_file_is_got(remote, tmp_path, monkeypatch):
    for name in ("config.json", "scheduler_config.json", "diffusion_pytorch_model.bin"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "training_state.pt").touch()
    monkeypatch.setattr(remote, "folder", tmp_path)
    folder = hub_of_models.download("hf://me/pets@v1", hub_of_models.OF_DIFFUSERS)
    assert {path.name for path in folder.iterdir()} >= {"scheduler_config.json"}
    assert not (folder / "training_state.pt").exists()


def test_a_pipeline_on_the_hub_is_to_be_converted(
    remote, tmp_path, capsys, monkeypatch
):
    (tmp_path / "model_index.json").write_text("{}")
    monkeypatch.setattr(remote, "folder", tmp_path)
    code, error = answer(sample, "hf://me/pets", capsys=capsys, monkeypatch=monkeypatch)
    said = "hf://me/pets: is a pipeline of diffusers; convert it first: progdist "
    assert code == 2
    assert error.splitlines()[-1] == f"progdist: {said}convert hf://me/pets --out=DIR"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://pets", "must be hf://OWNER/NAME[@REVISION]"),
        ("hf://", "must be hf://OWNER/NAME[@REVISION]"),
        ("hf://me/pets/hub", "must be hf://OWNER/NAME[@REVISION]"),
        ("hf://me/pets@", "must be hf://OWNER/NAME[@REVISION]"),
        ("hf://../pets", "could not be downloaded ("),
        ("hf://me/nothing", "could not be downloaded (404 "),
        ("hf://me/pets@v2", "could not be downloaded (404 "),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(
    address, message, remote, capsys, monkeypatch
):
    code, error = answer(sample, address, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert error.startswith(f"progdist: {address}: {message}")
    assert error.count("\n") == 1


def test_a_repository_without_a_model_is_said_to_be_one(
    remote, capsys, monkeypatch, tmp_path
):
    (tmp_path / "README.md").touch()
    monkeypatch.setattr(remote, "folder", tmp_path)
    code, error = answer(sample, "hf://me/pets", capsys=capsys, monkeypatch=monkeypatch)
    last = error.splitlines()[-1]  # after the client's progress
    assert (code, last) == (2, "progdist: hf://me/pets: holds no model.safetensors")


def test_without_a_network_it_is_one_line(client, capsys, monkeypatch):
    client("http://127.0.0.1:9")  # where nothing listens
    code, error = answer(sample, "hf://me/pets", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert error.startswith("progdist: hf://me/pets: could not be downloaded (")
    assert error.count("\n") == 1


def test_without_the_package_its_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, error = answer(sample, "hf://me/pets", capsys=capsys, monkeypatch=monkeypatch)
    message = "needs huggingface_hub; pip install 'progdist[hub]'\n"
    assert (code, error) == (2, f"progdist: hf://me/pets: {message}")
