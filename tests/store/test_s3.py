"""Stores and sources on S3-compatible storage: a moto server on loopback; the same bytes as on disk."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from histoxai.store.shards import Store
from histoxai.store.storage import s3_objects
from tests.conftest import CLASSES, Mini, Outcome, array_files, done, run, write_diagset
from tests.faults.crowd import start

SECRET = "never-to-be-seen"
FLAGS = ["--classes", ",".join(CLASSES), "--mpp", 0.25, "--shard-size", 8]
METHODS = ["--method", "ig,gradcam", "-O", "ig.steps=4", "--shard-size", 4]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def cloud(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A client of the server with an empty bucket `lab`; commands find both by the environment."""
    environment = {"ACCESS_KEY_ID": "AKIATESTING", "SECRET_ACCESS_KEY": SECRET, "REGION": "us-east-1"}
    for name, value in (environment | {"ENDPOINT_URL": server}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("HISTOXAI_CACHE", str(tmp_path / "cache"))
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="lab")
    yield client
    s3_objects.known_sizes.clear()
    every = [{"Key": key} for key in names(client)]
    for first in range(0, len(every), 1000):
        client.delete_objects(Bucket="lab", Delete={"Objects": every[first : first + 1000]})
    client.delete_bucket(Bucket="lab")


def names(client: Any, prefix: str = "") -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="lab", Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def keys(client: Any, prefix: str = "") -> dict[str, bytes]:
    return {k: client.get_object(Bucket="lab", Key=k)["Body"].read() for k in names(client, prefix)}


def upload(client: Any, folder: Path, prefix: str) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "lab", f"{prefix}/{path.relative_to(folder).as_posix()}")
    return f"s3://lab/{prefix}"


def arrays(client: Any, prefix: str) -> dict[str, bytes]:
    """`array_files` of a store in the bucket."""
    found = {k.removeprefix(f"{prefix}/"): data for k, data in keys(client, f"{prefix}/").items()}
    return {k: data for k, data in found.items() if not k.startswith("_done") and k != "zarr.json"}


def digest(place: object) -> str:
    return str(json.loads(done("info", place, "--json"))["digest"])


def other_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("HISTOXAI_CACHE", str(folder))
    s3_objects.known_sizes.clear()


@pytest.mark.slow
def test_the_pipeline_on_storage_is_the_pipeline_on_disk(
    mini: Mini, cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, p, local = upload(cloud, mini.diagset, "src/set"), "s3://lab/p", tmp_path / "local"
    cls, seg = upload(cloud, mini.cls, "p/cls"), upload(cloud, mini.seg, "p/seg")
    done("ingest", source, "-o", f"{p}/patches.zarr", "--classes", ",".join(CLASSES), "--mpp", 0.25)
    done("augment", f"{p}/patches.zarr", "-o", f"{p}/balanced.zarr")
    done("masks", f"{p}/balanced.zarr", "--model", seg, "-o", f"{p}/masks.zarr")
    explain = ["explain", f"{p}/balanced.zarr", "--model", cls, "-o", f"{p}/maps.zarr", *METHODS]
    for k in (0, 1):
        other_machine(monkeypatch, tmp_path / f"machine{k}")
        done(*explain, "--shard", k)
    other_machine(monkeypatch, tmp_path / "machine0")
    last = done(*explain, "--count-shards").strip().removeprefix("0-")
    assert done(*explain, "--missing").strip() == f"2-{last}"
    done(*explain)
    assert done(*explain, "--missing") == ""
    done("explain", mini.balanced, "--model", mini.cls, "-o", local / "maps.zarr", *METHODS)

    def score(maps: object, masks: object, output: object) -> Any:
        return json.loads(done("score", maps, "--masks", masks, "-o", output, "--json"))

    there = score(f"{p}/maps.zarr", f"{p}/masks.zarr", f"{p}/scores.zarr")
    assert there == score(local / "maps.zarr", mini.masks, local / "scores.zarr")
    for name in ("patches", "balanced", "masks", "maps", "scores"):
        whole = local / f"{name}.zarr" if name in ("maps", "scores") else mini.root / f"{name}.zarr"
        assert arrays(cloud, f"p/{name}.zarr") == array_files(whole), name
        assert digest(f"{p}/{name}.zarr") == Store(whole).digest(), name

    near = tmp_path / "near.zarr"  # a store on disk whose parents are on storage, and theirs beside them
    done("score", f"{p}/maps.zarr", "--masks", f"{p}/masks.zarr", "-o", near)
    assert Store(near).header["parents"]["maps"]["path"] == "s3://lab/p/maps.zarr"
    other_machine(monkeypatch, tmp_path / "machine1")
    done("report", near, "-o", tmp_path / "report", "--dry-run")
    page = json.loads(done("report", f"{p}/scores.zarr", "-o", f"{p}/report", "--json"))["page"]
    assert page == "s3://lab/p/report/index.html"
    everything = keys(cloud)
    assert b"s3://lab/p/maps.zarr" in everything["p/report/index.html"]
    assert json.loads(done("info", f"{p}/report", "--json"))["complete"]
    assert json.loads(done("info", f"{p}/maps.zarr", "--verify", "--json"))["failed"] == []

    header = json.loads(everything["p/patches.zarr/zarr.json"])["attributes"]["histoxai"]
    assert header["parents"]["source"]["path"] == "../src/set"
    assert header["run"]["command"].startswith("histoxai ingest s3://lab/src/set -o s3://lab/p/patches.zarr")
    for key, data in everything.items():
        assert SECRET.encode() not in data, key
        assert b"AKIATESTING" not in data, key
        assert str(tmp_path).encode() not in data or key.startswith(("p/cls", "p/seg")), key  # trained on disk
    # what was written and read left no arrays behind
    assert not [f for f in tmp_path.glob("machine*/**/c/*/**/*") if f.is_file() and f.stat().st_size > 100_000]


@pytest.mark.slow
def test_a_killed_ingest_goes_on(cloud: Any, tmp_path: Path) -> None:
    write_diagset(tmp_path / "set")
    source = upload(cloud, tmp_path / "set", "set")
    done("ingest", tmp_path / "set", "-o", tmp_path / "whole.zarr", *FLAGS)
    command, log = ["ingest", source, "-o", "s3://lab/out.zarr", *FLAGS, "--quiet"], tmp_path / "log"
    process = start(command, log)
    deadline = time.monotonic() + 60
    while not any("images/c/" in k for k in names(cloud, "out.zarr/")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    done(*command)
    assert arrays(cloud, "out.zarr") == array_files(tmp_path / "whole.zarr")
    assert digest("s3://lab/out.zarr") == Store(tmp_path / "whole.zarr").digest()


def test_tasks_that_share_a_cache_and_workers(cloud: Any, tmp_path: Path) -> None:
    source = write_diagset(tmp_path / "set")
    done("ingest", source, "-o", tmp_path / "whole.zarr", *FLAGS)
    command, log = ["ingest", source, "-o", "s3://lab/out.zarr", *FLAGS, "--quiet"], tmp_path / "log"
    crowd = [start([*command, *more], log) for more in (["--shard", "0-5"], ["--shard", "3-8"], [], ["--workers", 2])]
    for process in crowd:
        process.join(120)
    assert [process.exitcode for process in crowd] == [0, 0, 0, 0], log.read_text()
    assert arrays(cloud, "out.zarr") == array_files(tmp_path / "whole.zarr")
    assert digest("s3://lab/out.zarr") == Store(tmp_path / "whole.zarr").digest()


def test_a_store_that_was_only_begun_is_finished(cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_diagset(tmp_path / "set")
    done("ingest", source, "-o", "s3://lab/out.zarr", *FLAGS)
    whole, mark = arrays(cloud, "out.zarr"), digest("s3://lab/out.zarr")
    for key in names(cloud, "out.zarr/"):
        if key != "out.zarr/zarr.json":
            cloud.delete_object(Bucket="lab", Key=key)
    other_machine(monkeypatch, tmp_path / "other")
    outcome = run("ingest", source, "-o", "s3://lab/out.zarr", *FLAGS, "--mpp", 0.5)
    assert outcome.code == 3
    assert "mpp = 0.25, asked for 0.5" in outcome.err
    done("ingest", source, "-o", "s3://lab/out.zarr", *FLAGS)
    assert arrays(cloud, "out.zarr") == whole
    assert digest("s3://lab/out.zarr") == mark


def test_force_and_damage(cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = write_diagset(tmp_path / "set"), "s3://lab/out.zarr"
    command = ["ingest", source, "-o", output, *FLAGS]
    done(*command)
    whole = arrays(cloud, "out.zarr")
    other_machine(monkeypatch, tmp_path / "other")
    key = "out.zarr/images/c/1/0/0/0"
    cloud.put_object(Bucket="lab", Key=key, Body=whole["images/c/1/0/0/0"][:-9] + b"123456789")
    outcome = run("info", output, "--verify")
    assert outcome.code == 1
    assert f"-o {output}" in outcome.err
    assert "--shard 1 --verify" in outcome.err
    outcome = run("augment", output, "-o", "s3://lab/balanced.zarr")
    assert outcome.code == 1
    assert "array images, shard 1" in outcome.err
    done(*command, "--verify")
    assert arrays(cloud, "out.zarr") == whole
    cloud.delete_object(Bucket="lab", Key=key)
    assert done(*command, "--missing").strip() == "1"
    done(*command, "--mpp", 0.5, "--force")
    assert arrays(cloud, "out.zarr") == whole
    assert json.loads(keys(cloud)["out.zarr/zarr.json"])["attributes"]["mpp"] == 0.5


def refused(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome.code == code, outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert "Traceback" not in outcome.err
    assert SECRET not in outcome.err
    for word in words:
        assert word in outcome.err


def test_refusals(cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_diagset(tmp_path / "set", scans=1)
    refused(run("info", "s3://nowhere-at-all/x"), 3, "no bucket 'nowhere-at-all'", "s3://nowhere-at-all/x")
    refused(run("info", "s3://lab/none.zarr"), 3, "s3://lab/none.zarr: no such store")
    refused(run("info", f"s3://me:{SECRET}@lab/x"), 2, "expected s3://bucket/prefix")
    refused(run("info", "gs://lab/x"), 2, "only s3://")
    cloud.put_object(Bucket="lab", Key="mine/thesis.txt", Body=b"years of work")
    for force in ([], ["--force"]):
        refused(run("ingest", source, "-o", "s3://lab/mine", *FLAGS, "-q", *force), 3, "s3://lab/mine")
    assert keys(cloud) == {"mine/thesis.txt": b"years of work"}
    done("ingest", source, "-o", "s3://lab/p.zarr", *FLAGS)
    refused(
        run("train-cls", "s3://lab/p.zarr", "-o", "s3://lab/cls"), 3, "s3://lab/cls: run folders are written to disk"
    )
    refused(run("augment", "s3://lab/p.zarr", "-o", "s3://lab/p.zarr/in"), 3, "overlaps the input s3://lab/p.zarr")

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    refused(run("info", "s3://lab/p.zarr"), 1, "s3://lab/p.zarr: storage failed", "AWS_ENDPOINT_URL", "run the same")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("prefix", [".scratch/p.zarr", "a/_part/p.zarr"])
def test_prefixes_that_look_unfinished_are_refused(cloud: Any, mini: Mini, prefix: str) -> None:
    refused(run("ingest", mini.diagset, "-o", f"s3://lab/{prefix}"), 2, "begins with a dot or is _part")
    assert names(cloud, prefix) == []


def test_the_scheme_in_capitals(cloud: Any, tmp_path: Path) -> None:
    write_diagset(tmp_path / "source", scans=1)
    done("ingest", tmp_path / "source", "-o", "S3://lab/capitals.zarr", "--classes", "A,N,R1")
    assert "capitals.zarr/zarr.json" in names(cloud, "capitals.zarr")


def test_reading_keeps_nothing_that_was_fetched(cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from histoxai.core import s3_paths
    from histoxai.store import shard_reader
    from histoxai.store.shards import Store

    write_diagset(tmp_path / "source", scans=1)
    done("ingest", tmp_path / "source", "-o", "s3://lab/ranges.zarr", "--classes", "A,N,R1", "--shard-size", 4)
    store = Store(s3_paths.mirror_path("s3://lab/ranges.zarr"))
    opened, open_file = [], shard_reader._open_file.__wrapped__

    @lru_cache(1024)
    def recorded(*arguments: Any) -> Any:
        opened.append(open_file(*arguments))
        return opened[-1]

    monkeypatch.setattr(shard_reader, "_open_file", recorded)
    assert len(store.read("images")) == 15
    remote = [file._remote for file in opened if file._remote is not None]
    assert len(remote) >= 4
    assert not any(file._fetched for file in remote)


def test_a_file_that_goes_while_it_is_fetched_is_gone(
    cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histoxai.store.storage import s3_mirror, s3_objects

    def torn(path: Path) -> Iterator[bytes]:
        yield b"the first"
        raise FileNotFoundError

    place = tmp_path / "a.bin"
    place.write_bytes(b"whole" * 60)
    monkeypatch.setattr(s3_objects, "pieces", torn)
    s3_mirror.fetch(place)
    assert not place.exists()


def test_access_denied(cloud: Any, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    # moto answers so once a policy forbids it
    policy = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::lab/*"}
    cloud.put_object(Bucket="lab", Key="x/zarr.json", Body=b"{}")
    cloud.put_bucket_policy(Bucket="lab", Policy=json.dumps({"Version": "2012-10-17", "Statement": [policy]}))
    refused(run("info", "s3://lab/x"), 3, "access denied", "AWS_ACCESS_KEY_ID")
    cloud.delete_bucket_policy(Bucket="lab")


def test_local_runs_never_import_the_client(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_diagset(tmp_path / "set", scans=1)
    code = (
        "import sys; from histoxai.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'obstore' not in sys.modules"
    )
    words = ["ingest", tmp_path / "set", "-o", tmp_path / "p.zarr", *FLAGS]
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True)
    assert (tmp_path / "p.zarr").is_dir()
