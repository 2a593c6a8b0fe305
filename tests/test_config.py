import dataclasses
import json
import os

import jax
import pytest

from progdist import checkpoint
from progdist.checkpoint import CheckpointError
from progdist.config import (
    Config,
    ConfigError,
    Data,
    differences,
    from_json,
    load_preset,
    net_from_dict,
    plan_of,
    to_json,
)
from progdist.config.check import check, long_averages
from progdist.errors import InputError
from progdist.model import param_shapes
from progdist.plan import read_plan
from progdist.preflight import check_devices, check_memory, make_model
from progdist.workdir.files import FormatError
from progdist.workdir.lock import owner_of
from progdist.workdir.rows import read_rows

LSUN = {
    "num_parameters": 139_578_502,
    "image_shape": (128, 128, 3),
    "parameterization": "both",
    **{"ch": 64, "emb_ch": 768, "ch_mult": (1, 2, 4, 6, 8), "num_res_blocks": 3},
    **{"attn_resolutions": (8, 16, 32), "head_dim": 64, "num_classes": 0},
    **{"base.batch_size": 2048, "base.learning_rate": 3e-4, "base.dropout": 0.1},
    **{"base.num_updates": 400_000, "base.weight_decay": 0.0},
    **{"distill.batch_size": 2048, "distill.learning_rate": 1e-4},
    "distill.start_steps": 1024,
}
# The released configurations, and the paper's appendix B and C.
PUBLISHED = {
    "cifar10": {
        "num_parameters": 60_004_099,
        "name": "cifar10",
        "image_shape": (32, 32, 3),
        "parameterization": "x",
        **{"ch": 256, "emb_ch": 1024, "ch_mult": (1, 1, 1), "num_res_blocks": 3},
        **{"attn_resolutions": (8, 16), "head_dim": 0, "num_classes": 0},
        **{"base.batch_size": 128, "base.learning_rate": 2e-4, "base.dropout": 0.2},
        **{"base.num_updates": 800_000, "base.weight_decay": 1e-3},
        **{"distill.batch_size": 128, "distill.learning_rate": 5e-5},
        "distill.start_steps": 8192,
    },
    "imagenet64": LSUN
    | {
        "num_parameters": 295_905_222,
        "image_shape": (64, 64, 3),
        **{"ch": 192, "ch_mult": (1, 2, 3, 4), "num_classes": 1000},
        "base.num_updates": 550_000,
    },
    "lsun_bedroom": LSUN,
    "lsun_church": LSUN,
}
COMMON = {
    **{"num_heads": 1, "patch_size": 1, "dtype": "float32"},
    **{"base.ema_decay": 0.9999, "base.warmup_updates": 1000, "base.anneal": "none"},
    **{"distill.num_updates": 50_000, "distill.end_steps": 1, "distill.ratio": 2},
    **{"distill.long_rounds": 2, "distill.long_num_updates": 100_000},
    **{"distill.warmup_updates": 0, "distill.anneal": "linear"},
    **{"distill.ema_decay": 0.0, "distill.dropout": 0.0, "distill.weight_decay": 0.0},
    **{"base.weight": "truncated_snr", "distill.weight": "truncated_snr"},
    **{"base.clip_norm": 1.0, "distill.clip_norm": 1.0},
    **{"schedule": "cosine", "flip": True, "evaluation.num_samples": 50_000},
}
TFDS_NAMES = {
    "cifar10": "",
    "imagenet64": "imagenet2012",
    "lsun_bedroom": "lsun/bedroom",
    "lsun_church": "lsun/church_outdoor",
}
NAMES = ["digits", "fashion_mnist", *PUBLISHED]


def load(name, variant=None) -> Config:
    return load_preset(name, variant or "")


def num_parameters(config):
    model = make_model(config)
    return sum(leaf.size for leaf in jax.tree.leaves(param_shapes(model)))


def values_of(config):
    """Every value by name; those of the data and the network without a prefix."""
    values = dataclasses.asdict(config)
    flat = values | values["data"] | values["net"]
    for part in ("base", "distill", "evaluation"):
        flat |= {f"{part}.{name}": value for name, value in values[part].items()}
    return flat | {"num_parameters": num_parameters(config)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_values(name):
    expected = PUBLISHED[name] | COMMON | {"tfds_name": TFDS_NAMES[name]}
    values = values_of(load(name))
    assert {field: values[field] for field in expected} == expected


def test_a_head_has_its_configured_channels():
    """On the second level of ImageNet's network: 384 channels in heads of 64."""
    attention = param_shapes(make_model(load("imagenet64")))["down_1.attn_0"]
    assert attention["q"]["kernel"].shape == (384, 6, 64)


@pytest.mark.parametrize(
    ("name", "num_classes"), [("imagenet64", 1000), ("cifar10", 0)]
)
def test_a_model_has_the_classes_of_its_network(name, num_classes):
    assert make_model(load(name)).num_classes == num_classes


def test_the_dtype_of_the_computation_reaches_the_network():
    config = load("digits")
    config.net.dtype = "bfloat16"
    assert make_model(config).net.dtype == jax.numpy.bfloat16


@pytest.mark.parametrize("variant", [None, "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_passes_its_check(name, variant):
    config = load(name, variant)
    check(config)
    check_devices(config, 8)
    assert plan_of(config)[-1].num_steps == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_variant_keeps_what_is_special(name):
    full, small = load(name), load(name, "smoke")
    assert bool(full.net.attn_resolutions) == bool(small.net.attn_resolutions)
    assert full.parameterization == small.parameterization
    for field in ("num_classes", "patch_size"):
        assert getattr(full.net, field) == getattr(small.net, field)
    assert full.data.flip == small.data.flip
    assert num_parameters(small) < 300_000


def test_another_variant_is_refused():
    with pytest.raises(
        ConfigError, match="digits:tiny: the only variant is digits:smoke"
    ):
        load("digits", "tiny")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", -1, "config.seed=-1: must be at least 0"),
        ("seed", 1.5, "config.seed=1.5: must be of type int"),
        ("save_every", 150, "a multiple of config.log_every=100"),
        ("schedule", "cos", "must be one of cosine, linear,"),
        ("data.image_shape", (8, 8, 2), r"must be \(height, width, 1 or 3\)"),
        ("data.image_shape", [8, 8, 1], "must be a tuple of integers"),
        ("data.image_shape", (9, 8, 1), "divisible by 2"),
        ("data.name", "tfds", "config.data.tfds_name='': must be a TFDS dataset"),
        ("net.ch", 7, "config.net.ch=7: must be even"),
        ("net.ch_mult", (), "at least one factor"),
        ("net.attn_resolutions", (8,), r"among the heights of .* \[4\]"),
        (
            "distill.long_rounds",
            7,
            "config.distill.long_rounds=7: must be at most the 6",
        ),
        ("base.learning_rate", float("inf"), "must be above 0 and finite"),
        ("evaluation.grid_images", 4096, "at most num_samples=2048"),
        ("evaluation.seed", 2**32, r"below 2\*\*32"),
        ("net.num_heads", 5, "config.net.num_heads=5: must be a divisor"),
        ("net.head_dim", 36, "config.net.head_dim=36: must be a divisor"),
        ("base.learning_rate", 0.0, "config.base.learning_rate=0.0: must be above 0"),
        ("distill.ema_warmup", 1, "must be 0, or 2 or more"),
        ("base.adam_b1", 1.0, r"must be in \[0, 1\)"),
        ("distill.adam_b2", -0.1, r"must be in \[0, 1\)"),
        ("base.adam_eps", 0.0, "must be above 0 and finite"),
        ("base.clip_groups", 0, "must be at least 1"),
        ("base.clip_groups", 3, "must be a divisor of batch_size=64"),
        ("distill.micro_batch_size", 3, "must be a divisor of batch_size=64"),
        ("distill.times", "even", "must be one of stratified, independent"),
        ("base.ema_decay", 1.0, r"must be in \[0, 1\)"),
        ("distill.weight", "snr2", "config.distill.weight='snr2': must be one of"),
        ("distill.start_steps", 48, "config.distill.start_steps=48: must be end_steps"),
        ("distill.ratio", 1, "config.distill.ratio=1: must be at least 2"),
        ("distill.long_num_updates", 0, "config.distill.long_num_updates=0"),
        ("evaluation.gamma", 1.5, "config.evaluation.gamma=1.5: must be 0 to 1"),
        ("evaluation.num_samples", 1, "must be at least 2"),
        ("distill.start_steps", 2**25, "must be at most 16,777,216"),
        ("base.num_updates", 2**31, r"updates of all phases=.*: must be below 2\*\*31"),
        ("log_every", 2**32, r"config.log_every=4294967296: must be below 2\*\*32"),
        ("net.num_res_blocks", 10**9, "config.net.num_res_blocks=.*: must be <= 100"),
        ("evaluation.metrics", ("fid",), "must be names of fd, kid, is, pr, at least"),
        ("evaluation.metrics", ["fd"], r"metrics=\['fd'\]: must be names of fd, kid"),
        ("evaluation.features", (), r"features=\(\): must be names of pixels, incep"),
    ],
)
def test_a_bad_value_is_refused_by_field_value_and_rule(field, value, message):
    config = node = load("digits")
    *path, name = field.split(".")
    for part in path:
        node = getattr(node, part)
    setattr(node, name, value)
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_a_batch_that_the_devices_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"base\.batch_size=64: must be a mult"):
        check_devices(load("digits"), 6)


@pytest.mark.parametrize(
    ("field", "value"), [("base.batch_size", 10**9), ("evaluation.num_samples", 10**13)]
)
def test_images_that_exceed_the_memory_are_refused(field, value):
    config = load("digits")
    check_memory(config, 1)
    node, name = field.split(".")
    setattr(getattr(config, node), name, value)
    with pytest.raises(ConfigError, match=f"config.{field}={value}: .* the memory"):
        check_memory(config, 1)


@pytest.mark.parametrize("name", NAMES)
def test_json_keeps_everything(tmp_path, name):
    (tmp_path / "config.json").write_text(to_json(load(name)))
    assert from_json(tmp_path / "config.json") == load(name)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", '{"sede": 1}', '{"data": 3}', "\xff"),
        f'{{"seed": {"9" * 5000}}}',
        "[" * 100_000,
    ],
)
def test_another_file_is_refused_by_its_name(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ConfigError, match=r"config\.json: not a configuration"):
        from_json(tmp_path / "config.json")


def test_a_pipe_is_not_read(tmp_path):
    """Its reader would wait for a writer."""
    for name in ("config.json", "eval.jsonl", "plan.json", "lock"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match=r"config\.json: is not a regular file"):
        from_json(tmp_path / "config.json")
    with pytest.raises(FormatError, match=r"eval\.jsonl: is not a regular file"):
        read_rows(tmp_path / "eval.jsonl")
    with pytest.raises(InputError, match=r"plan\.json: not a plan"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(CheckpointError, match=r"lock: holds no model"):
        checkpoint.check_model(tmp_path / "lock", {})
    assert owner_of(tmp_path) == {}


def test_differences_name_old_and_new_of_what_matters():
    old, new = load("digits"), load("digits")
    new.base.learning_rate, new.data = 0.5, Data(dir="/elsewhere")
    new.keep_checkpoints += 1
    new.evaluation.metrics, new.evaluation.enabled = ("kid",), False
    assert differences(old, new) == ["base.learning_rate: 0.001 → 0.5"]
    assert differences(old, dataclasses.replace(old)) == []


def test_a_configuration_of_version_0_1_0_is_read_under_its_new_names(tmp_path):
    """It had `model`, with the network's fields and `output` among them."""
    config = load("digits")
    values = json.loads(to_json(config))
    values["model"] = {"output": values.pop("parameterization"), **values.pop("net")}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert from_json(tmp_path / "config.json") == config


@pytest.mark.parametrize(("old", "remat"), [(True, "blocks"), (False, "none")])
def test_a_configuration_of_version_0_2_0_computes_as_it_did(tmp_path, old, remat):
    """It recomputed blocks or nothing, and knew neither groups nor precisions."""
    config = load("digits")
    values = json.loads(to_json(config))
    values["net"]["remat"] = old
    del values["precision"], values["net"]["num_groups"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    config.net.remat = remat
    assert from_json(tmp_path / "config.json") == config
    assert net_from_dict(values["net"]) == config.net


def test_an_average_without_a_warm_up_stays_as_it_was(tmp_path):
    """Until 0.2.0 there was none, and no field; without an average it is all one."""
    config = load("digits")
    values = json.loads(to_json(config))
    for name in ("base", "distill"):
        del values[name]["ema_warmup"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    before = from_json(tmp_path / "config.json")
    assert differences(before, config) == ["base.ema_warmup: 0 → 20"]


@pytest.mark.parametrize(
    ("decay", "warmup", "lines"),
    [
        (0.9999, 0, ["10,000 updates is longer than a phase of 600; it will be 94% "]),
        (0.9999, 10, ["a phase of 600; ema_warmup=10 shortens it to 68"]),
        (0.99, 0, []),
        (0.0, 0, []),
    ],
)
def test_an_average_longer_than_its_phase_is_told_of(decay, warmup, lines):
    config = load("digits")
    config.base.num_updates = 600
    config.base.ema_decay, config.base.ema_warmup = decay, warmup
    found = long_averages(config)
    assert len(found) == len(lines)
    for line, part in zip(found, lines, strict=True):
        assert line.startswith("config.base.ema_decay=0.9999: ")
        assert part in line


def test_the_average_of_a_round_is_compared_with_the_shortest_round():
    config = load("digits")
    config.distill.ema_decay, config.distill.num_updates = 0.999, 900
    assert ["a phase of 900" in line for line in long_averages(config)] == [True]
    config.distill.num_updates = 1000
    assert not long_averages(config)
