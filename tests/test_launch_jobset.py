"""The Kubernetes manifests: valid, and meaning what the launcher was told."""

import json
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests import fake_commands

ROOT = Path(__file__).parents[1]
COMMON = ["--name=my-run", "--image=r.io/p/progdist:1@sha256:ab", "--claim=my-claim"]
BUCKET = ["--config=C", "--workdir=gs://my-bucket/runs/w"]
TPU = [*COMMON, "--kind=tpu", "--accelerator=tpu-v4-podslice", "--topology=2x2x4"]
GPU = [*COMMON, "--kind=gpu", "--accelerator=nvidia-h100-80gb", "--network=tcp"]
GPU += ["--nodes=3"]
V6E = [*TPU, "--accelerator=tpu-v6e-slice"]
MAIN = ["--config=configs/digits.py:smoke", '--workdir=/workdir/it\'s "$(HOME)"\n: é']
PASSED_ON = [MAIN[0], MAIN[1].replace("$", "$$")]
NODE_SYSTEM = "", "CriticalPods"
# Of jobset.x-k8s.io/v1alpha2, as far as it is used.
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name", "annotations", "labels"},
    "spec": {"network", "failurePolicy", "replicatedJobs", "ttlSecondsAfterFinished"},
    "spec.network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
    "spec.failurePolicy": {"maxRestarts", "rules", "restartStrategy"},
    "spec.failurePolicy.rules": {"name", "action", "onJobFailureReasons"},
    "spec.replicatedJobs": {"name", "replicas", "template", "groupName", "dependsOn"},
    "spec.replicatedJobs.template": {"metadata", "spec"},
}


def launch(*words, main=MAIN, check=True, **options):
    command = [sys.executable, "-m", "launch.jobset", *words, "--", *main]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=check,
        **options,
    )


def manifests(*words, main=MAIN):
    """The JobSet, its Job and its NetworkPolicy."""
    printed = launch(*words, "--dry_run", main=main).stdout
    jobset, policy = yaml.safe_load_all(printed)
    (job,) = jobset["spec"]["replicatedJobs"]
    return jobset, job, policy


@pytest.fixture(scope="module", params=["tpu", "gpu", "bucket"])
def made(request):
    words = {"tpu": TPU, "gpu": GPU, "bucket": [*TPU, "--claim="]}[request.param]
    main = BUCKET if request.param == "bucket" else MAIN
    return manifests(*words, "--spot", "--queue=team-a", "--ttl=3600", main=main)


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_job_and_policy_are_valid(made, version):
    _, job, policy = made
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}}
    whole |= job["template"]
    assert kubernetes_validate.validate(whole, version, strict=True) == version
    assert kubernetes_validate.validate(policy, version, strict=True) == version


def test_the_claim_and_its_reader_are_valid():
    for manifest in yaml.safe_load_all((ROOT / "launch" / "claim.yaml").read_text()):
        assert kubernetes_validate.validate(manifest, "1.37", strict=True) == "1.37"


def test_a_spot_node_leaves_the_pods_longer_than_the_largest_measured_save(made):
    system = yaml.safe_load((ROOT / "launch" / "node_system.yaml").read_text())
    seconds = system["kubeletConfig"]
    total, of_system = (seconds[f"shutdownGracePeriod{k}Seconds"] for k in NODE_SYSTEM)
    assert total <= 120  # GKE's bound
    pod = made[1]["template"]["spec"]["template"]["spec"]
    assert 55 < total - of_system <= pod["terminationGracePeriodSeconds"]


def test_the_jobset_has_fields_of_its_version(made):
    assert made[0]["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert made[0]["kind"] == "JobSet"
    for path, allowed in FIELDS.items():
        nodes = [made[0]]
        for key in path.split(".") if path else []:
            nodes = [node[key] for node in nodes]
            nodes = [
                n for node in nodes for n in (node if type(node) is list else [node])
            ]
        for node in nodes:
            assert set(node) <= allowed, path


def test_a_mistake_fails_the_set_and_a_loss_restarts_it(made):
    jobset, job, _ = made
    spec = job["template"]["spec"]
    assert spec["backoffLimit"] == 0
    (pods,) = spec["podFailurePolicy"]["rules"]
    codes = pods["onExitCodes"]
    assert (pods["action"], codes["operator"]) == ("FailJob", "In")
    assert codes["containerName"] == container(job)["name"]
    assert codes["values"] == [1, 2, 3, 4, 130]  # neither 5 nor 143 nor 137
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == (
        *("FailJobSet", ["PodFailurePolicy"]),
    )
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 100
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 60


def container(job):
    (only,) = job["template"]["spec"]["template"]["spec"]["containers"]
    return only


def test_the_pods_have_no_privileges(made):
    _, job, policy = made
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert "hostNetwork" not in pod
    security = container(job)["securityContext"]
    assert security["privileged"] is security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"], "add": []}
    own = {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": "my-run"}}
    assert policy["spec"]["podSelector"] == own
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": own}]}]


def places(job):
    """The volumes by name, and what can be written: paths by the name of the volume."""
    volumes = {v.pop("name"): v for v in pod_of(job)["volumes"]}
    mounts = {m["name"]: m["mountPath"] for m in container(job)["volumeMounts"]}
    assert set(volumes) == set(mounts)
    return volumes, mounts


def pod_of(job):
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("words", "main", "volume"),
    [
        ([], MAIN, {"persistentVolumeClaim": {"claimName": "my-claim"}}),
        (["--claim="], BUCKET, {"emptyDir": {}}),
    ],
)
def test_a_workdir_is_on_the_claim_and_one_in_a_bucket_needs_none(words, main, volume):
    """The cache is on the volume, too, since the image cannot be written."""
    _, job, _ = manifests(*TPU, *words, main=main)
    volumes, mounts = places(job)
    assert (volumes["workdir"], mounts["workdir"]) == (volume, "/workdir")
    env = {e["name"]: e.get("value") for e in container(job)["env"]}
    assert (env["XDG_CACHE_HOME"], env["HOME"]) == ("/workdir/.cache", mounts["tmp"])


def test_the_pods_have_the_service_account_that_they_are_given():
    for words, name in ([], "default"), (["--service_account=trainer"], "trainer"):
        assert pod_of(manifests(*TPU, *words)[1])["serviceAccountName"] == name


def test_a_slice_has_a_pod_for_every_host():
    jobset, job, _ = manifests(*TPU, "--slices=2", "--spot", "--restarts=7")
    spec = job["template"]["spec"]
    assert (job["replicas"], spec["parallelism"], spec["completions"]) == (2, 4, 4)
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert container(job)["resources"] == {"limits": {"google.com/tpu": 4}}
    assert container(job)["image"] == "r.io/p/progdist:1@sha256:ab"
    assert container(job)["args"] == [*PASSED_ON, "--distributed"]
    assert spec["template"]["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v4-podslice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
        "cloud.google.com/gke-spot": "true",
    }


def test_a_single_host_has_all_chips_of_its_slice():
    jobset, job, _ = manifests(*V6E, "--topology=1x1")
    assert job["template"]["spec"]["parallelism"] == 1
    assert container(job)["resources"] == {"limits": {"google.com/tpu": 1}}
    assert job["template"]["spec"]["template"]["spec"]["tolerations"] == []
    assert jobset["metadata"]["labels"] == {}
    assert "ttlSecondsAfterFinished" not in jobset["spec"]


@pytest.mark.parametrize(("per_node", "nodes"), [(8, 1), (4, 2)])
def test_eight_chips_are_one_host_or_two_as_said(per_node, nodes):
    _, job, _ = manifests(*V6E, "--topology=2x4", f"--per_node={per_node}")
    assert job["template"]["spec"]["completions"] == nodes
    assert container(job)["resources"] == {"limits": {"google.com/tpu": per_node}}


def test_the_queue_and_the_end_of_a_finished_jobset_are_as_said(made):
    jobset, _, _ = made
    assert jobset["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team-a"}
    assert jobset["spec"]["ttlSecondsAfterFinished"] == 3600


def test_locked_memory_is_one_capability_of_root_and_no_more(tmp_path):
    _, job, _ = manifests(*TPU, "--locked_memory", "--user=0")
    security = container(job)["securityContext"]
    assert security["privileged"] is security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["SYS_RESOURCE"]}
    command = [*container(job)["command"], *container(job)["args"]]
    command = [word.replace("ulimit", "echo ulimit") for word in command]
    fakes = fake_commands.make(tmp_path, python="")
    assert subprocess.check_output(command, env=fakes) == b"ulimit -l 68719476736\n"
    trainer = ["python", "-m", "progdist.main", *container(job)["args"]]
    assert fake_commands.calls(tmp_path) == [trainer]


def test_the_image_starts_the_trainer_as_the_manifest_does():
    _, job, _ = manifests(*TPU)
    entry = (ROOT / "launch" / "Dockerfile").read_text().partition("ENTRYPOINT ")[2]
    assert container(job)["command"] == json.loads(entry)


def test_the_processes_with_gpus_are_told_who_they_are():
    jobset, job, _ = manifests(*GPU)
    spec = job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (3, 3)
    assert spec["completionMode"] == "Indexed"
    assert jobset["spec"]["network"]["enableDNSHostnames"] is True
    first = f"my-run-{job['name']}-0-0.my-run"
    assert container(job)["args"] == [
        *(*PASSED_ON, "--distributed", f"--coordinator={first}:8476"),
        *("--num_processes=3", "--process_id=$(PROCESS_ID)"),
    ]
    ids = {e["name"]: e.get("valueFrom") for e in container(job)["env"]}["PROCESS_ID"]
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert ids == {"fieldRef": {"fieldPath": index}}
    assert container(job)["ports"] == [{"containerPort": 8476}]
    assert container(job)["resources"] == {"limits": {"nvidia.com/gpu": 8}}


def test_what_the_dry_run_prints_is_what_kubectl_gets(tmp_path):
    body = f"open({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read()); sys.exit(7)"
    environment = fake_commands.make(tmp_path, kubectl=body)
    first, _, rest = launch(*GPU, "--dry_run", env=environment).stdout.partition("\n")
    assert fake_commands.calls(tmp_path) == []
    assert launch(*GPU, env=environment, check=False).returncode == 7
    assert (tmp_path / "got").read_text() == rest
    (call,) = fake_commands.calls(tmp_path)
    assert first == "# " + " ".join(call)


@pytest.mark.parametrize(
    ("words", "main", "message"),
    [
        (["--name=My"], MAIN, "--name=My: must look like my-run"),
        ([f"--name={'a' * 41}"], MAIN, "must look like my-run"),
        (["--image=a b"], MAIN, "--image=a b: must look like"),
        (["--claim="], MAIN, "needs the --claim to mount at /workdir"),
        (["--claim=a b"], MAIN, "--claim=a b: must look like my-claim"),
        (["--service_account="], MAIN, "--service_account=: must look like default"),
        ([], BUCKET, "w: needs no claim; omit --claim=my-claim"),
        ([], ["--config=C", "--workdir=gs://b/"], "must be gs://BUCKET/PATH or a"),
        (["--accelerator=x\ny"], MAIN, "must look like tpu-v6e-slice or"),
        (["--kind=cpu"], MAIN, "value should be one of <tpu|gpu>"),
        (["--topology=4"], MAIN, "--topology=4: must look like 2x2x4"),
        (["--topology=2x2x3", "--per_node=8"], MAIN, "its 12 chips are not on nodes"),
        (["--per_node=8"], MAIN, "its 16 chips are not on nodes of --per_node=8"),
        (["--topology=4x4"], MAIN, "must have 3 sides for tpu-v4-podslice"),
        ([*V6E, "--topology=2x4"], MAIN, "choose --per_node=8 or --per_node=4"),
        (["--accelerator=tpu-v6e"], MAIN, "tpu-v6e: must be one of tpu-v4"),
        ([*GPU, "--network="], MAIN, "--network"),
        ([*GPU[:-2], "--nodes=2"], MAIN, "use one node, or --network=tcp for plain"),
        (["--queue=a b"], MAIN, "--queue=a b: must look like my-queue"),
        (["--locked_memory"], MAIN, "only root can raise the limit; add --user=0"),
        ([], ["--config=C", "--workdir=/tmp/w"], "or below /workdir, with --claim"),
        ([], ["--workdir=/workdir/w"], "--config=... is missing after --"),
        ([], [*MAIN, "--num_processes=2"], "is set by the launcher"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, main, message):
    done = launch(*TPU, "--dry_run", *words, main=main, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.replace("\n", " ")
    assert done.stderr.startswith("launch: ")
