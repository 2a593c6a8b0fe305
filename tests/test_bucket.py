"""Workdirs and inputs in a bucket, on an emulator: one server for all tests."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from progdist import errors
from progdist.errors import InputError, Interrupted
from progdist.workdir import bucket, copies, files, layout, lease, lock, mirror
from progdist.workdir.bucket import Bucket, BucketError, Conflict
from progdist.workdir.copies import Copy
from progdist.workdir.lease import Lease
from progdist.workdir.lock import LockError
from progdist.workdir.mirror import Mirror
from tests import bucket_server
from tests.bucket_server import LEASE, RENEW
from tests.waiting import wait_until

OWNER = """
import sys, time
from progdist.workdir import lease
from progdist.workdir.bucket import Bucket
lease.LEASE_SECONDS, lease.RENEW_SECONDS = float(sys.argv[2]), float(sys.argv[3])
with lease.Lease(Bucket(sys.argv[1]), print):
    print("owns", flush=True)
    time.sleep(60)
"""


def put(url, **objects):
    place = Bucket(url)
    for name, text in objects.items():
        place.upload(name.replace("__", "/").replace("_dot_", "."), text.encode(), 0)
    return place


def texts(root):
    return {name: (root / name).read_text() for name in copies.names_below(root)}


def own(url, note=lambda line: None, **flags):
    return Mirror(url, note, **flags)


def suspend(here):
    """Its threads end, as if the process slept."""
    here._stop.set()
    here._lease._released.set()
    time.sleep(3 * RENEW)
    here._lease._released.clear()


def write(root, name, text):
    files.write_bytes(root / name, text.encode())


def write_tree(root, tree, text):
    for name in ("a", "b/c", "manifest.sha256"):
        write(root, f"{tree}/{name}", text)


def test_an_object_is_replaced_by_the_writer_that_knows_it(url):
    place = Bucket(url)
    first = place.upload("x", b"one", 0)
    assert place.read("x") == (b"one", first.generation)
    for generation in (0, first.generation + 1):
        with pytest.raises(Conflict):
            place.upload("x", b"two", generation)
    second = place.upload("x", b"three", first.generation)
    assert place.list() == {"x": second}
    assert second.size == 5
    for _ in range(2):
        place.delete("x", second.generation)
    assert place.read("x") == (b"", 0)


@pytest.mark.parametrize(
    "text",
    [
        "gs://",
        "gs://R/x",
        "gs://a",
        "gs:///x",
        "gs://ab c",
        "gs://abc/../x",
        "gs://abc/x/./y",
    ],
)
def test_a_malformed_address_is_refused(url, text):
    with pytest.raises(InputError, match="must look like gs://BUCKET/PATH"):
        Bucket(text)


def test_what_is_missing_is_named(url, monkeypatch):
    with pytest.raises(InputError, match="gs://no-such/x: there is no such bucket"):
        Bucket("gs://no-such/x").list()
    with pytest.raises(InputError, match="s3://a/b: must be a local path"):
        copies.local("s3://a/b")
    with pytest.raises(InputError, match="gs://a/b: must be a local path"):
        files.expand("gs://a/b")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HOME", os.environ["XDG_CACHE_HOME"])
    bucket._client.cache_clear()
    with pytest.raises(InputError, match=r"no credentials; run gcloud auth"):
        Bucket("gs://abc/x")
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    monkeypatch.delattr("google.cloud.storage", raising=False)
    bucket._client.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'progdist\[gcs\]'"):
        Bucket("gs://abc/x")


def test_a_server_that_is_gone_is_reported_and_not_waited_for_for_ever(
    url, monkeypatch, capsys
):
    monkeypatch.setattr(bucket, "RETRY_SECONDS", 3.0)
    monkeypatch.setattr(bucket, "_LASTS_SECONDS", 0.5)
    monkeypatch.setenv(
        "STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{bucket_server.free_port()}"
    )
    bucket._client.cache_clear()
    with pytest.raises(BucketError, match="no answer") as caught:
        Bucket(url).list()
    assert caught.value.exit_code == 4
    assert capsys.readouterr().err.count("no answer yet") == 1


def test_a_copy_is_made_equal_and_nothing_is_read_twice(url, monkeypatch):
    place = put(url, a="1", b__c="2", d="3")
    copy, downloads = Copy(url), []
    download = Bucket.download
    monkeypatch.setattr(
        Bucket,
        "download",
        lambda self, name, *rest: downloads.append(name) or download(self, name, *rest),
    )
    copy.pull()
    assert texts(copy.path) == {"a": "1", "b/c": "2", "d": "3"}
    write(copy.path, "mine", "x")
    write(copy.path, "a", "changed")
    place.delete("d", place.stored("d").generation)
    place.upload("b/c", b"22", place.stored("b/c").generation)
    downloads.clear()
    copy.pull()
    assert texts(copy.path) == {"a": "1", "b/c": "22"}
    assert sorted(downloads) == ["a", "b/c"]
    downloads.clear()
    copy._known.clear()  # as in another process, which compares the contents
    copy.pull()
    assert not downloads


def test_one_object_and_selected_ones_are_copied(url):
    put(url, a="1", b__c="2")
    assert copies.local(f"{url}/b/c").read_text() == "2"
    path = copies.local(url, lambda name: name == "a")
    assert texts(path) == {"a": "1"}
    assert copies.local(url) == path
    assert texts(path) == {"a": "1", "b/c": "2"}
    put(url, e="5")
    Bucket(url).delete("a", Bucket(url).stored("a").generation)
    copies.refresh()  # what was selected at first
    assert texts(path) == {"b/c": "2"}
    assert not copies.local(f"{url}/nothing").exists()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a//x", "./x"])
def test_names_that_leave_the_copy_are_refused(url, name, monkeypatch):
    stored = bucket.Stored(1, "", 1)
    monkeypatch.setattr(Bucket, "list", lambda self: {name: stored})
    with pytest.raises(InputError, match="which is not a valid file path"):
        Copy(url).pull()
    assert not list(Path(os.environ["XDG_CACHE_HOME"]).rglob("x"))


def test_two_processes_of_a_machine_have_two_copies(url):
    assert Copy(url).path != Copy(url).path


def test_messages_name_the_bucket(url, capsys):
    copy = Copy(url)
    assert errors.shown(f"{copy.path / 'eval.jsonl'}: x") == f"{url}/eval.jsonl: x"


def test_a_workdir_is_pushed_and_comes_back_equal(url):
    with own(url) as here:
        write(here.path, "metrics.jsonl", "1\n")
        write_tree(here.path, "checkpoints/5", "five")
        write(here.path, "models/phase_00_steps_4/a", "incomplete")
        write(here.path, "notes.txt", "not of a run")
        here.push()
        with (here.path / "metrics.jsonl").open("a") as file:
            file.write("2\n")
        write_tree(here.path, "checkpoints/10", "ten")
        expected = texts(here.path)
    del expected["notes.txt"], expected["models/phase_00_steps_4/a"]
    there = own(url)
    there.pull()
    assert there.path != here.path
    assert texts(there.path) == expected | {"lock": ""}
    assert expected["metrics.jsonl"] == "1\n2\n"


def test_a_manifest_comes_last_and_goes_first(url, monkeypatch):
    done = []
    for verb in ("upload", "delete"):
        act = getattr(Bucket, verb)

        def noted(self, name, *rest, act=act, verb=verb):
            if name != layout.LOCK:
                done.append((verb, name))
            return act(self, name, *rest)

        monkeypatch.setattr(Bucket, verb, noted)
    with own(url) as here:
        write_tree(here.path, "checkpoints/5", "five")
        write(here.path, "metrics.jsonl", "1\n")
        here.push()
        assert done[0] == ("upload", "metrics.jsonl")  # rows precede checkpoints
        assert done[-1] == ("upload", "checkpoints/5/manifest.sha256")
        done.clear()
        for name in ("a", "b/c", "manifest.sha256"):
            (here.path / "checkpoints/5" / name).unlink()
        write_tree(here.path, "checkpoints/7", "seven")
        here.push()
    assert done[3] == ("delete", "checkpoints/5/manifest.sha256")
    assert [verb for verb, _ in done] == ["upload"] * 3 + ["delete"] * 3


def test_a_model_that_is_being_replaced_does_not_count(url, monkeypatch):
    with own(url) as here:
        write_tree(here.path, "models/phase_00_steps_4", "one")
        here.push()
        write_tree(here.path, "models/phase_00_steps_4", "other")
        upload = Bucket.upload

        def cut_short(self, name, *rest):
            if name.endswith("b/c"):
                raise BucketError("cut short")
            return upload(self, name, *rest)

        monkeypatch.setattr(Bucket, "upload", cut_short)
        with pytest.raises(BucketError):
            here.push()
        there = own(url)
        there.pull()
        assert texts(there.path).keys() == {"lock"}
        monkeypatch.setattr(Bucket, "upload", upload)


def test_what_a_killed_owner_left_half_written_does_not_count(url):
    put(url, checkpoints__5__a="half", checkpoints__4__a="4", other__x="not of a run")
    put(url, checkpoints__4__manifest_dot_sha256="4", notes="not of a run")
    with own(url) as here:
        assert texts(here.path).keys() == {
            "checkpoints/4/a",
            "checkpoints/4/manifest.sha256",
            "lock",
        }
        here.push()
    assert Bucket(url).list().keys() == {
        "checkpoints/4/a",
        "checkpoints/4/manifest.sha256",
        "lock",
        "notes",
        "other/x",
    }


def test_a_checkpoint_is_not_deleted_before_its_successor_is_there(url, monkeypatch):
    """With `keep_checkpoints=1`, one is removed just after another's manifest."""
    with own(url) as here:
        write_tree(here.path, "checkpoints/5", "five")
        here.push()
        upload, once = Mirror._upload_all, []

        def replaced_meanwhile(self, names):
            if not once:
                once.append(True)
                write_tree(here.path, "checkpoints/7", "seven")
                shutil.rmtree(here.path / "checkpoints/5")
            return upload(self, names)

        monkeypatch.setattr(Mirror, "_upload_all", replaced_meanwhile)
        here.push()
        assert "checkpoints/5/a" in Bucket(url).list()
        here.push()
        left = Bucket(url).list()
    assert "checkpoints/7/manifest.sha256" in left
    assert "checkpoints/5/a" not in left


def test_an_emptied_cache_does_not_empty_the_bucket(url):
    with own(url) as here:
        write_tree(here.path, "checkpoints/5", "five")
        write_tree(here.path, "models/phase_00_steps_4", "four")
        write(here.path, "metrics.jsonl", "1\n")
        write(here.path, "measuring/x.npz", "sums")
        here.push()
        before = Bucket(url).list()
        (here.path / "measuring/x.npz").unlink()  # as the run itself does
        here.push()
        assert before.keys() - Bucket(url).list().keys() == {"measuring/x.npz"}
        for name in ("checkpoints/5", "models/phase_00_steps_4"):
            shutil.rmtree(here.path / name)
        here.push()
        shutil.rmtree(here.path)
        with pytest.raises(FileNotFoundError):
            here.push()
        assert before.keys() - Bucket(url).list().keys() == {"measuring/x.npz"}
        here.path.mkdir(parents=True)


def test_a_part_that_a_killed_process_left_is_removed(url, monkeypatch):
    copy = Copy(url)
    write(copy.path, ".big.123", "half")
    monkeypatch.setattr(copies, "_claim", lambda url: (copy._root, copy._slot))
    assert not list(Copy(url).path.rglob("*.123"))


def test_a_download_that_is_not_what_was_stored_is_refused(url, monkeypatch):
    put(url, a="1")
    monkeypatch.setattr(bucket, "md5_of", lambda path: "0" * 32)
    with pytest.raises(InputError, match="changes faster than it can be read"):
        Copy(url).pull()


def test_a_full_disk_is_not_taken_for_a_bucket_that_does_not_answer(url, monkeypatch):
    put(url, a="1")

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    from google.cloud import storage

    monkeypatch.setattr(storage.Blob, "download_to_filename", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        Copy(url).pull()
    assert caught.value.filename.endswith("/.a." + str(os.getpid()))


def test_a_client_that_loses_the_thread_begins_again(url, monkeypatch):
    from google.cloud import storage

    upload, failures = storage.Blob.upload_from_string, [ValueError("bytes")] * 2

    def fail(self, *args, **options):
        if failures:
            raise failures.pop()
        return upload(self, *args, **options)

    monkeypatch.setattr(storage.Blob, "upload_from_string", fail)
    assert Bucket(url).upload("x", b"1", 0).size == 1
    failures.extend([ValueError("bytes")] * 3)
    with pytest.raises(BucketError, match="no answer"):
        Bucket(url).upload("y", b"1", 0)


def test_a_cache_without_locks_is_refused(url, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(copies.fcntl, "flock", fail)
    with pytest.raises(InputError, match="set XDG_CACHE_HOME to a local disk"):
        Copy(url)


def test_without_checkpoints_those_in_the_bucket_stay(url):
    with own(url) as here:
        write_tree(here.path, "checkpoints/5", "five")
        write(here.path, "eval.jsonl", "1\n")
    with own(url, has_checkpoints=False) as here:
        assert texts(here.path).keys() == {"eval.jsonl", "lock"}
        write(here.path, "eval.jsonl", "1\n2\n")
    assert "checkpoints/5/manifest.sha256" in Bucket(url).list()
    assert Bucket(url).read("eval.jsonl")[0] == b"1\n2\n"


def test_a_process_that_does_not_own_the_workdir_only_reads(url):
    with own(url) as first:
        write_tree(first.path, "models/phase_00_steps_4", "four")
        first.push()
        second = own(url)
        second.pull_unless_owned("models/")
        assert (second.path / "models/phase_00_steps_4/b/c").read_text() == "four"
        assert lock.owner_of(second.path)["pid"] == str(os.getpid())


def test_a_second_owner_is_refused_and_a_released_lease_is_free(url):
    said = []
    with Lease(Bucket(url), said.append):
        began = time.monotonic()
        with (
            pytest.raises(LockError, match=f"is in use by process {os.getpid()} on "),
            Lease(Bucket(url), said.append),
        ):
            pass
        assert time.monotonic() - began < LEASE
    assert "to see if it is alive" in said[0]
    began = time.monotonic()
    with Lease(Bucket(url), said.append):
        assert time.monotonic() - began < LEASE / 2
    assert len(said) == 1


def test_a_lease_that_is_released_while_another_waits_is_free(url, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 60.0)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 140.0)
    monkeypatch.setattr(lease, "_WATCH_SECONDS", 0.1)
    first = Lease(Bucket(url), print).__enter__()
    release = threading.Timer(0.5, first.__exit__)
    release.start()
    began = time.monotonic()
    with Lease(Bucket(url), print):
        assert time.monotonic() - began < 20
    release.join()


def test_of_two_that_start_at_once_one_becomes_the_owner(url):
    outcomes = []

    def start():
        try:
            with Lease(Bucket(url), lambda line: None):
                outcomes.append("owns")
                time.sleep(2 * LEASE)
        except LockError:
            outcomes.append("refused")

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["owns", "refused", "refused", "refused"]


def test_the_lease_of_a_crashed_owner_is_taken_over_in_its_time(url):
    command = [sys.executable, "-c", OWNER, url, str(LEASE), str(RENEW)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "owns\n"
        owner.kill()
    began = time.monotonic()
    with Lease(Bucket(url), lambda line: None):
        assert LEASE - RENEW <= time.monotonic() - began < LEASE + 3


def test_an_owner_that_slept_too_long_writes_nothing_more(url, monkeypatch):
    here = own(url)
    here.__enter__()
    suspend(here)
    with own(url) as other:
        write(other.path, "metrics.jsonl", "theirs\n")
        other.push()
        write(here.path, "metrics.jsonl", "ours\n")
        here._lease._renewed -= LEASE
        with pytest.raises(LockError, match="was taken over by process"):
            here.push()
        with pytest.raises(LockError):
            here.check()
        with pytest.raises(LockError):
            here.__exit__(None)
        assert Bucket(url).read("metrics.jsonl")[0] == b"theirs\n"
        other.check()


def test_a_write_that_was_under_way_when_the_lease_was_lost_is_refused(url):
    with own(url) as here:
        write(here.path, "metrics.jsonl", "1\n")
        here.push()
        found = Bucket(url).stored("metrics.jsonl")
        # Another owner replaces the rows, then the lock.
        Bucket(url).upload("metrics.jsonl", b"theirs\n", found.generation)
        suspend(here)
        Bucket(url).upload(layout.LOCK, b"x", Bucket(url).stored("lock").generation)
        write(here.path, "metrics.jsonl", "ours\n")
        with pytest.raises(LockError):
            here.push()
        assert Bucket(url).read("metrics.jsonl")[0] == b"theirs\n"
        here._lease._lost = False
        here._lease._generation = Bucket(url).stored("lock").generation
        here._known.clear()
        here.pull()


def test_a_request_that_was_answered_too_late_is_no_conflict(url):
    with own(url) as here:
        write(here.path, "metrics.jsonl", "1\n")
        here.push()
        found = Bucket(url).stored("metrics.jsonl")
        Bucket(url).upload("metrics.jsonl", b"1\n2\n", found.generation)
        write(here.path, "metrics.jsonl", "1\n2\n")
        here.push()
        record, generation = Bucket(url).read(layout.LOCK)
        Bucket(url).upload(layout.LOCK, record, generation)
        here._lease.renew()
        here.check()
    assert Bucket(url).read("metrics.jsonl")[0] == b"1\n2\n"


def test_nothing_is_lost_while_a_third_of_the_requests_fail(url, emulator, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 30.0)
    with bucket_server.Flaky(emulator) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        bucket._client.cache_clear()
        with own(url) as here:
            proxy.share = 0.3
            for step in range(1, 4):
                write(here.path, "metrics.jsonl", "row\n" * step)
                write_tree(here.path, f"checkpoints/{step}", str(step))
                here.push()
                here.check()
            expected = texts(here.path)
            proxy.share = 0.0
        there = own(url)
        proxy.share = 0.3
        there.pull()
    assert texts(there.path) == expected | {"lock": ""}
    assert proxy.failed > 5


def test_after_a_signal_a_push_that_fails_is_no_success(url, monkeypatch):
    monkeypatch.setattr(bucket, "RETRY_SECONDS", 0.5)

    def refused(self):
        raise BucketError("no answer")

    for error, expected in {
        Interrupted(15, "saved"): BucketError,
        ValueError("a fault"): ValueError,
    }.items():
        monkeypatch.setattr(Mirror, "push", refused)
        with pytest.raises(expected), own(f"{url}/{expected.__name__}"):
            raise error


def test_rows_are_pushed_while_the_run_goes_on(url, monkeypatch):
    monkeypatch.setattr(mirror, "PUSH_SECONDS", 0.1)
    with own(url) as here:
        write(here.path, "metrics.jsonl", "1\n")
        wait_until(lambda: Bucket(url).read("metrics.jsonl")[0] == b"1\n", 10)
