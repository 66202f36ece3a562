"""Array jobs on the tiny pipeline: shares, worker processes, verification, damage, gaps, estimates, signals."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from histoxai.store.shards import Store
from histoxai.store.storage.files import abandoned
from tests.conftest import CLASSES, FAST, Mini, array_files, done, run

EXPLAIN = [*FAST, "--shard-size", "4"]


# of each worker as many as this process has: on some CPUs another number gives other last bits
THREADS = ["--threads", 2]


def explain(mini: Mini, output: Path, *more: object) -> list[object]:
    return ["explain", mini.balanced, "--model", mini.cls, "-o", output, *EXPLAIN, *more]


def ingest(mini: Mini, output: Path, *more: object) -> list[object]:
    classes = ",".join(CLASSES)
    return ["ingest", mini.diagset, "-o", output, "--classes", classes, "--mpp", 0.25, "--shard-size", 16, *more]


def flip(path: Path, at: int = 60) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 4
    path.write_bytes(bytes(data))


def test_ingest_in_shares_gives_the_same_bytes(mini: Mini, tmp_path: Path) -> None:
    done(*ingest(mini, tmp_path / "whole"))
    assert done(*ingest(mini, tmp_path / "p", "--count-shards")) == "0-5\n"
    assert done(*ingest(mini, tmp_path / "p", "--count-shards", "--one-indexed")) == "1-6\n"
    assert not (tmp_path / "p").exists()
    for share in ("3", "0,4-5"):
        done(*ingest(mini, tmp_path / "p", "--shard", share))
    assert done(*ingest(mini, tmp_path / "p", "--missing")) == "1-2\n"
    refused = run("augment", tmp_path / "p", "-o", tmp_path / "b")
    assert refused.code == 4
    assert refused.err.rstrip().endswith("--shard 1-2`")
    done(*ingest(mini, tmp_path / "p", "--shard", "2-3", "--one-indexed"))
    assert done(*ingest(mini, tmp_path / "p", "--missing")) == ""
    assert array_files(tmp_path / "p") == array_files(tmp_path / "whole")
    assert Store(tmp_path / "p").digest() == Store(tmp_path / "whole").digest()


def test_a_share_of_a_broken_source_leaves_the_others_work(mini: Mini, tmp_path: Path) -> None:
    source = shutil.copytree(mini.diagset, tmp_path / "d")
    last = sorted(source.rglob("*.npy"))[-1]
    command = ["ingest", source, "-o", tmp_path / "p", "--classes", ",".join(CLASSES), "--shard-size", 16]
    done(*command, "--shard", 0)
    data = last.read_bytes()
    last.write_bytes(data[:80] + b"\0" * 10)
    assert run(*command, "--shard", 5).code == 3
    assert run(*command).code == 3  # nor does one that does them all throw away what is done
    assert Store(tmp_path / "p").completeness()["images"]["missing"] == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["explain", "masks", "ingest"])
def test_worker_processes_give_the_same_bytes_and_start_over_once(mini: Mini, tmp_path: Path, verb: str) -> None:
    commands = {
        "explain": explain(mini, Path(), "--method", "ig,nt,lime,gradcam"),
        "masks": ["masks", mini.balanced, "--model", mini.seg, "-o", Path(), "--shard-size", 4],
        "ingest": ingest(mini, Path()),
    }
    command = [*map(str, commands[verb]), "--threads", "1"]
    at = command.index("-o") + 1
    for name, more in (("one", []), ("two", ["--workers", "2"]), ("two", ["--workers", "2", "--force"])):
        command[at] = str(tmp_path / name)
        result = subprocess.run(
            [sys.executable, "-m", "histoxai", *command, *more, "--json"], capture_output=True, text=True, check=True
        )
    assert "warning" not in result.stderr.replace("warning: ", "", 1)  # said once, not by each worker
    summary = json.loads(result.stdout)
    assert set(summary["done"].values()) == {
        Store(tmp_path / "two").completeness()[next(iter(summary["done"]))]["shards"]
    }
    assert array_files(tmp_path / "two") == array_files(tmp_path / "one")
    assert Store(tmp_path / "two").digest() == Store(tmp_path / "one").digest()
    assert "--workers" not in Store(tmp_path / "two").header["run"]["command"]


def test_a_workers_error_is_the_commands(mini: Mini, tmp_path: Path) -> None:
    source = shutil.copytree(mini.diagset, tmp_path / "d")
    for path in sorted(source.rglob("*.npy"))[-4:]:
        path.write_bytes(path.read_bytes()[:-1000])
    command = ["ingest", source, "-o", tmp_path / "p", "--classes", ",".join(CLASSES), "--shard-size", 16]
    outcome = run(*command, "--workers", 2)
    assert outcome.code == 3
    assert ".npy" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_killed_worker_is_reported_and_its_work_resumed(mini: Mini, tmp_path: Path) -> None:
    words = explain(mini, tmp_path / "m", "--workers", 2, *THREADS, "--quiet")
    command = [sys.executable, "-m", "histoxai", *map(str, words)]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    victim = _wait_for(lambda: _children(parent.pid, "spawn_main"), parent)[0]
    _wait_for(lambda: list((tmp_path / "m/_done").rglob("0.json"))[1:], parent)
    os.kill(victim, signal.SIGKILL)
    _, err = parent.communicate(timeout=60)
    assert parent.returncode == 1
    assert "a worker process was killed by signal 9" in err
    assert "run the same command again" in err
    assert not _children(parent.pid, "spawn_main")
    done(*explain(mini, tmp_path / "m"))
    assert array_files(tmp_path / "m") == array_files(mini.maps)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_workers_too_and_in_time(mini: Mini, tmp_path: Path, number: signal.Signals) -> None:
    words = explain(mini, tmp_path / "m", "--workers", 2, *THREADS, "--quiet")
    command = [sys.executable, "-m", "histoxai", *map(str, words)]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: list((tmp_path / "m/_done").rglob("0.json"))[1:], parent)
    workers = _children(parent.pid, "spawn_main")
    parent.send_signal(number)
    started = time.monotonic()
    _, err = parent.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert parent.returncode == 75
    assert f"stopped by {number.name}; what is finished is kept" in err
    assert len(workers) == 2
    assert not [w for w in workers if Path(f"/proc/{w}/cmdline").exists() and Path(f"/proc/{w}/cmdline").read_bytes()]
    done(*explain(mini, tmp_path / "m"))
    assert array_files(tmp_path / "m") == array_files(mini.maps)


def _children(parent: int, word: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == parent and word in (path.parent / "cmdline").read_text():
                found.append(int(path.parent.name))
        except (OSError, IndexError):
            continue
    return found


def _wait_for(find: object, process: subprocess.Popen[str]) -> list[int]:
    deadline = time.monotonic() + 60
    while not (found := find()):  # type: ignore[operator]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found  # type: ignore[no-any-return]


def interrupted(command: list[object], *delays: float) -> tuple[int, str]:
    """Exit code and stderr of a command that gets a SIGTERM after each of these delays."""
    words = [sys.executable, "-m", "histoxai", *map(str, command)]
    task = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for delay in delays:
        time.sleep(delay)
        task.terminate()
    _, err = task.communicate(timeout=30)
    return task.returncode, err


@pytest.mark.parametrize("gap", [0.002, 0.01, 0.05, 0.15])
def test_a_second_signal_changes_nothing(mini: Mini, tmp_path: Path, gap: float) -> None:
    lasting = explain(mini, tmp_path / "m", "--quiet", "-O", "nt.steps=500")  # longer than the signals wait
    code, err = interrupted(lasting, 6.0, gap, gap)
    assert code == 75, err
    assert err.count("what is finished is kept") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("delay", [0.3, 0.5, 0.8, 1.5])
def test_a_signal_while_starting_up(mini: Mini, tmp_path: Path, delay: float) -> None:
    """Before that Python itself is starting, and the signal ends it as signals do."""
    code, err = interrupted(explain(mini, tmp_path / "m", "--quiet"), delay)
    assert code == 75, err
    assert "what is finished is kept" in err
    assert "Traceback" not in err


def test_a_command_stuck_in_native_code_still_ends_in_time(tmp_path: Path) -> None:
    code = (
        "import ctypes, sys\n"
        "from histoxai import signals\n"
        "signals.catch()\n"
        "libc = ctypes.CDLL(None)\n"
        "while True:\n"
        "    try:\n"
        "        print('ready', flush=True)\n"  # here, so that the signal finds the loop whenever it comes
        "        libc.usleep(60_000_000)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"  # what a destructor does
    )
    task = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert task.stdout is not None
    task.stdout.readline()
    started = time.monotonic()
    task.terminate()
    _, err = task.communicate(timeout=20)
    assert 7 < time.monotonic() - started < 10
    assert task.returncode == 75
    assert "stopped by SIGTERM; what is finished is kept" in err


@pytest.mark.slow
def test_a_stopped_lime_shard_does_not_start_over(mini: Mini, tmp_path: Path) -> None:
    options = ["--method", "lime", "-O", "lime.samples=250", "-O", "lime.max_dist=10", "--threads", "1"]
    common = ["explain", mini.balanced, "--model", mini.cls, *options, "--quiet"]
    command = [sys.executable, "-m", "histoxai", *map(str, [*common, "-o", tmp_path / "m"])]
    task = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(lambda: list((tmp_path / "m/_done").rglob("0.json"))[1:], task)  # predictions are there
    time.sleep(4.0)
    task.send_signal(signal.SIGUSR1)
    assert task.wait(20) == 75
    (part,) = (tmp_path / "m/_part/lime/0").glob("*.part")
    first, last = map(int, part.stem.split("-"))
    assert first == 0
    assert 0 < last < len(Store(tmp_path / "m").read("row"))
    assert done(*common, "-o", tmp_path / "m", "--missing") == "0\n"
    for name in ("m", "whole"):  # by themselves: this process has other threads
        words = [sys.executable, "-m", "histoxai", *map(str, [*common, "-o", tmp_path / name])]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    assert array_files(tmp_path / "m") == array_files(tmp_path / "whole")
    assert not (tmp_path / "m/_part").exists()


def test_a_rerun_of_a_torn_shard_redoes_it(mini: Mini, tmp_path: Path) -> None:
    maps = shutil.copytree(mini.maps, tmp_path / "maps")
    victims = [p for p in sorted((maps / "attributions").rglob("0")) if p.is_file() and "1" in p.parts]
    assert len(victims) >= 4
    for path, size in zip(victims, (0, 10, -1, -100), strict=False):
        path.write_bytes(path.read_bytes()[:size])
    outcome = run("score", maps, "--masks", mini.masks, "-o", tmp_path / "s")
    assert outcome.code == 4
    assert "lacks shard 1; run `histoxai explain" in outcome.err
    done(*explain(mini, maps))
    assert array_files(maps) == array_files(mini.maps)


def test_damage_is_named_with_the_command_that_mends_it(mini: Mini, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    done(*explain(mini, maps))
    flip(maps / "attributions/ig/c/1/0/0/0", 5000)
    outcome = run("score", maps, "--masks", mini.masks, "-o", tmp_path / "s")
    assert outcome.code == 1
    assert f"{maps}: array attributions/ig, shard 1, patch " in outcome.err
    command = outcome.err.split("`")[1].split()
    assert command[-3:] == ["--shard", "1", "--verify"]
    looked = run("info", maps, "--verify", "--json")
    assert looked.code == 1
    assert json.loads(looked.out)["items"]["ig"]["failed"] == "1"
    assert "'ig' fails its checksums in shard 1; remake it: `histoxai explain" in looked.err
    assert "1" in run("info", maps, "--verify").out
    assert "ig 1" in done(*command[1:])
    assert array_files(maps) == array_files(mini.maps)
    done("info", maps, "--verify")
    done("score", maps, "--masks", mini.masks, "-o", tmp_path / "s")


def test_a_byte_flipped_anywhere_is_noticed_by_the_command_that_reads_it(mini: Mini, tmp_path: Path) -> None:
    """100 places at random in all chunks of the three inputs of `score` and `explain`."""
    maps, masks = (shutil.copytree(p, tmp_path / p.name) for p in (mini.maps, mini.masks))
    rng = random.Random(0)
    files = [p for root in (maps, masks) for p in root.rglob("*") if p.is_file() and "c" in p.parts]
    # what `score` does not look at `info --verify` does
    unread = {maps / "predictions/logits": maps, maps / "targets": maps, maps / "checks": maps, masks / "row": masks}
    for _ in range(100):
        path = rng.choice(files)
        good = path.read_bytes()
        flip(path, rng.randrange(len(good)))
        command = ["score", maps, "--masks", masks, "-o", tmp_path / "s", "--force"]
        if found := [root for array, root in unread.items() if array in path.parents]:
            command = ["info", found[0], "--verify"]
        outcome = run(*command)
        assert outcome.code == 1, path
        assert "damaged" in outcome.err or "fails its checksums" in outcome.err
        path.write_bytes(good)
    assert run("score", maps, "--masks", masks, "-o", tmp_path / "s", "--force").code == 0


def test_partial_scores_and_reports_say_so_everywhere(mini: Mini, tmp_path: Path) -> None:
    maps, masks = (shutil.copytree(p, tmp_path / p.name) for p in (mini.maps, mini.masks))
    for root, name in ((maps, "_done/lime/1.json"), (maps, "_done/ig/2.json")):
        (root / name).unlink()
    score = ["score", maps, "--masks", masks, "-o", tmp_path / "s"]
    assert run(*score).code == 4
    outcome = run(*score, "--allow-partial", "--json")
    assert outcome.code == 0
    summary = json.loads(outcome.out)
    n = len(Store(maps).read("row"))
    assert (summary["partial"]["patches"], summary["partial"]["of"]) == (n - 8, n)
    assert summary["partial"]["gaps"] == {"maps": {"lime": "1", "ig": "2"}, "masks": {}}
    assert all(row["partial"] for row in summary["rows"])
    assert f"partial: {n - 8} of {n} patches" in outcome.err
    assert f"PARTIAL, {n - 8} of {n} patches" in done(*score, "--allow-partial")
    assert all(json.loads(line)["partial"] for line in done(*score, "--allow-partial", "--jsonl").splitlines())
    whole, part = Store(mini.scores), Store(tmp_path / "s")
    place = {p: i for i, p in enumerate(whole.read("patch_id").tolist())}
    at = [place[p] for p in part.read("patch_id").tolist()]
    assert at == [*range(4), *range(12, n)]
    np.testing.assert_array_equal(part.read("values"), whole.read("values")[at])

    refused = run("report", tmp_path / "s", "-o", tmp_path / "r")
    assert refused.code == 4
    assert "was made with --allow-partial" in refused.err
    assert "--shard 1-2`" in refused.err
    moved = ["--patches", mini.balanced, "--model", mini.cls, "--segmenter", mini.seg]
    done("report", tmp_path / "s", "-o", tmp_path / "r", "--allow-partial", *moved)
    page = (tmp_path / "r/index.html").read_text()
    words = f"artial: {n - 8} of {n} patches"
    assert page.count(words) >= 5
    assert words not in (mini.report / "index.html").read_text()
    assert Store(tmp_path / "r/data.zarr").header["partial"] == {"patches": n - 8, "of": n}
    ids = [i for i in Store(tmp_path / "r/data.zarr").read("example_patch_id").ravel().tolist() if i]
    assert set(ids) <= set(part.read("patch_id").tolist())

    done(*explain(mini, maps))
    assert run(*score, "--allow-partial").code == 3  # more is there now: the store is out of date, and that is said
    summary = json.loads(done(*score, "--force", "--json"))
    assert summary["partial"] is None
    assert not any(row["partial"] for row in summary["rows"])


def test_partial_leaves_out_a_method_that_has_not_begun(mini: Mini, tmp_path: Path) -> None:
    maps = shutil.copytree(mini.maps, tmp_path / "maps")
    for record in (maps / "_done/nt").glob("[0-9]*.json"):
        record.unlink()
    outcome = run("score", maps, "--masks", mini.masks, "-o", tmp_path / "s", "--allow-partial", "--json")
    assert "'nt' has no finished shard and is left out" in outcome.err
    summary = json.loads(outcome.out)
    assert {row["method"] for row in summary["rows"]} == {"ig", "lime", "gradcam"}
    assert summary["partial"]["patches"] == summary["partial"]["of"]
    for record in (maps / "_done/predictions").glob("[0-9]*.json"):
        record.unlink()
    assert run("score", maps, "--masks", mini.masks, "-o", tmp_path / "t", "--allow-partial").code == 4


def test_report_of_scores_with_gaps(mini: Mini, tmp_path: Path) -> None:
    scores = tmp_path / "scores.zarr"
    done("score", mini.maps, "--masks", mini.masks, "-o", scores, "--shard-size", 8)
    (scores / "_done/scores/0.json").unlink()
    assert run("report", scores, "-o", tmp_path / "r").code == 4
    done("report", scores, "-o", tmp_path / "r", "--allow-partial")
    n = len(Store(mini.maps).read("row"))
    assert f"artial: {n - 8} of {n} patches" in (tmp_path / "r/index.html").read_text()


def test_estimate_times_every_method_and_writes_nothing(mini: Mini, tmp_path: Path) -> None:
    summary = json.loads(done(*explain(mini, tmp_path / "m", "--estimate", "--json")))
    assert not (tmp_path / "m").exists()
    assert summary["schema"] == "histoxai.estimate/1"
    assert [r["method"] for r in summary["rows"]] == ["ig", "nt", "lime", "gradcam", "predictions"]
    n = summary["patches"]
    done(*explain(mini, tmp_path / "m"))
    files = [p for p in (tmp_path / "m").rglob("*") if p.is_file()]
    # shards of predictions that are all class 0 are all fill and have no file
    assert len(files) - 2 <= summary["total"]["files"] <= len(files) + summary["shards"]
    for row in summary["rows"][:-1]:
        # a pass that GradCAM shares with the predictions may take no longer than they do
        assert row["seconds_per_patch"] > 0 or row["method"] == "gradcam"
        assert row["hours"] == pytest.approx(row["seconds_per_patch"] * n / 3600)
        folders = [tmp_path / "m" / kind / row["method"] for kind in ("attributions", "checks")]
        arrays = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
        records = [p for p in (tmp_path / "m/_done" / row["method"]).rglob("*") if p.is_file()]
        assert row["files"] == pytest.approx(len(arrays) + len(records), abs=1)
        size = sum(p.stat().st_size for p in arrays if p.name != "zarr.json")
        assert row["gb"] * 1e9 == pytest.approx(size, rel=0.3)
    text = done(*explain(mini, tmp_path / "x", "--estimate"))
    assert "#SBATCH --array=0-" in text
    assert text.rstrip().endswith("--shard auto")
    assert "--estimate" not in text


def test_an_estimate_counts_a_shared_pass_once(mini: Mini, tmp_path: Path) -> None:
    chosen = ["--method", "gradcam,saliency,ixg,ig", "-O", "ig.steps=8", "--estimate", "--json"]
    command = ["explain", mini.balanced, "--model", mini.cls, "-o", tmp_path / "m", *chosen]
    rows = {r["method"]: r for r in json.loads(done(*command))["rows"]}
    assert len({rows[m]["seconds_per_patch"] for m in ("gradcam", "saliency", "ixg")}) == 1
    assert rows["ig"]["seconds_per_patch"] > 0


def test_a_finished_shard_again_is_a_no_op(mini: Mini, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in mini.root.rglob("*") if p.is_file()}
    assert "ig 0" in done(*explain(mini, mini.maps, "--shard", "1"))
    done(*explain(mini, mini.maps, "--workers", 2))
    done(*explain(mini, mini.maps, "--verify"))
    assert {p: p.stat().st_mtime_ns for p in mini.root.rglob("*") if p.is_file()} == before


def test_a_task_with_another_model_is_refused_by_name(mini: Mini, tmp_path: Path) -> None:
    done("train-cls", mini.balanced, "-o", tmp_path / "cls", "--epochs", 1, "--batch-size", 8)
    outcome = run("explain", mini.balanced, "--model", tmp_path / "cls", "-o", mini.maps, *EXPLAIN, "--shard", 1)
    assert outcome.code == 3
    assert "was made from another model (digest" in outcome.err


def test_force_and_shard_exclude_each_other(mini: Mini, tmp_path: Path) -> None:
    for command in (explain(mini, tmp_path / "m"), ingest(mini, tmp_path / "p")):
        assert run(*command, "--force", "--shard", 1).code == 2


def test_info_on_a_run_folder_verifies_weights_and_stores(mini: Mini, tmp_path: Path) -> None:
    cls = shutil.copytree(mini.cls, tmp_path / "cls")
    done("info", cls, "--verify")
    flip(cls / "weights.safetensors", 3000)
    outcome = run("info", cls, "--verify")
    assert outcome.code == 1
    assert "weights.safetensors fails its checksum; train again: `histoxai train-cls" in outcome.err
    cls = shutil.copytree(mini.cls, tmp_path / "other")
    flip(cls / "predictions.zarr/logits/c/0/0")
    assert "predictions.zarr fails" in run("info", cls, "--verify").err


def test_looking_and_scoring_agree_about_lost_records(mini: Mini, tmp_path: Path) -> None:
    for place, shards in (("ig/item.json", None), ("ig/1.json", "1"), ("index/0.json", None)):
        maps = shutil.copytree(mini.maps, tmp_path / place.replace("/", "-"))
        count = done(*explain(mini, maps, "--count-shards"))
        for bad in (None, "[]", "x", "flip"):
            record = maps / "_done" / place
            good = record.read_bytes()
            if bad is None:
                record.unlink()
            elif bad == "flip":
                digit = good.index(b'"rows": ') + 20 if b'"rows"' in good else good.index(b'"size": ') + 9
                record.write_bytes(good[:digit] + bytes([good[digit] ^ 1]) + good[digit + 1 :])
            else:
                record.write_text(bad)
            missing = done(*explain(mini, maps, "--missing"))
            if bad != "flip" and "index" not in place:
                assert missing == (f"{shards}\n" if shards else count)
                assert run("score", maps, "--masks", mini.masks, "-o", tmp_path / "s").code == 4
            assert run("info", maps, "--verify").code in (0, 4)
            done(*explain(mini, maps))
            assert done(*explain(mini, maps, "--missing")) == ""
            assert Store(maps).digest() == Store(mini.maps).digest()
            assert run("info", maps, "--verify").code == 0


def test_a_remedy_names_the_store_that_lacks_something(mini: Mini, tmp_path: Path) -> None:
    copy = shutil.copytree(mini.maps, tmp_path / "a copy's $place")
    (copy / "_done/nt/0.json").unlink()
    outcome = run("score", copy, "--masks", mini.masks, "-o", tmp_path / "s")
    words = shlex.split(outcome.err.split("`")[1])
    assert words[words.index("-o") + 1] == str(copy)
    assert "nt 1" in done(*words[1:])
    done("score", copy, "--masks", mini.masks, "-o", tmp_path / "s")


def test_head_ends_quietly(mini: Mini) -> None:
    for command in (f"info {mini.maps}", f"score {mini.maps} --masks {mini.masks} -o {mini.scores} -q"):
        line = f"set -o pipefail; {sys.executable} -m histoxai {command} | head -n 2"
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")


def test_info_needs_no_torch(mini: Mini) -> None:
    code = "import sys\nfrom histoxai.stages.info import info\nfrom pathlib import Path\n"
    code += f"info(Path({str(mini.cls)!r})); info(Path({str(mini.maps)!r}), True)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_abandoned_in_the_pipeline(mini: Mini) -> None:
    folders = [p for p in [mini.root, *mini.root.rglob("*")] if p.is_dir()]
    assert not [p for folder in folders for p in abandoned(folder)]
