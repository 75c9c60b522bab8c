"""A batch: what is refused, what is kept, and that no kill loses or doubles a video."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.cli.batch.body import Body, request_of
from hummingbird_edge.runtime.cli.batch.crew import Crew
from hummingbird_edge.runtime.cli.batch.jobs import read_jobs
from hummingbird_edge.runtime.cli.batch.results import (
    Failure,
    Result,
    digest_of,
    file_name,
    open_results,
)
from hummingbird_edge.runtime.cli.batch.worker import Answer, Cores, Task, Worker, WorkerEnded
from hummingbird_edge.runtime.errors import DeviceError, OutputError, RequestError
from hummingbird_edge.runtime.files import sha256_of
from hummingbird_edge.runtime.pipeline import TextToVideo
from hummingbird_edge.runtime.request import Request
from tests.conftest import command_line
from tests.test_cli import assert_refused

Command = Callable[..., "subprocess.CompletedProcess[str]"]
OPTIONS = {"frames": 2, "width": 64, "height": 64, "steps": 1, "guidance": None, "fps": None}
SMALL = ("--size", "64x128", "--frames", "2", "--steps", "1", "--device", "cpu+cpu")
PROMPTS = ("a red circle moving right", "a blue star spinning", "a green square moving up")


def write_jobs(path: Path, count: int, **body: object) -> Path:
    """Write a file of jobs that the built-in model makes quickly."""
    bodies = [{"prompt": PROMPTS[n % 3], "seed": n, **body} for n in range(count)]
    lines = [json.dumps({"custom_id": f"job-{n}", "body": each}) for n, each in enumerate(bodies)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_results(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def assert_whole(folder: Path, count: int) -> None:
    """Hold a folder to each job's result once, each with its file, and nothing else."""
    results = read_results(folder)
    assert Counter(each["custom_id"] for each in results) == {f"job-{n}": 1 for n in range(count)}
    assert {each["status"] for each in results} == {"completed"}
    for each in results:
        assert sha256_of(folder / each["path"]) == each["sha256"]
    names = {path.name for path in (folder / "videos").iterdir()}
    assert names == {f"job-{n}.mp4" for n in range(count)}


def alone(folder: Path, count: int) -> list[bytes]:
    """Make the same videos one by one, and return the files."""
    pipeline = TextToVideo.from_bundle(device="cpu")
    size: dict[str, Any] = {"width": 64, "height": 128, "frames": 2, "steps": 1}
    return [
        pipeline(PROMPTS[n % 3], seed=n, **size).save(folder / f"{n}.mp4").read_bytes()
        for n in range(count)
    ]


GOOD = '{"custom_id": "a", "body": {"prompt": "x"}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no job"),
        ("\n \n", "holds no job"),
        (f"{GOOD}\n\n{GOOD}", "lines 1 and 3 have the same custom_id 'a': give each job its own"),
        (f"{GOOD}\nnonsense", "line 2 is no job"),
        ("[1]", "line 1 is no job"),
        ('{"body": {}}', "line 1 is no job .*custom_id"),
        ('{"custom_id": "a"}', "line 1 is no job .*body"),
        ('{"custom_id": 3, "body": {}}', "line 1 is no job"),
        ('{"custom_id": "", "body": {}}', "line 1 is no job"),
        (json.dumps({"custom_id": "a" * 513, "body": {}}), "line 1 is no job"),
        ('{"custom_id": "a", "body": "x"}', "line 1 is no job"),
        ('{"custom_id": "a", "body": {}, "bodies": {}}', "line 1 is no job .*bodies"),
        ('{"custom_id": "a", "url": "/v1/chat/completions", "body": {}}', "line 1 is no job"),
        ('{"custom_id": "a", "body": {"a": NaN}}', "line 1 is no job"),
        ('{"custom_id": "a", "body": {"a": ' + "[" * 30_000, "line 1 is no job"),
        (GOOD[:-1] + " " * 70_000 + "}", "line 1 has more than 65536 bytes"),
        ("\udcff", "line 1 is no job"),
    ],
)
def test_a_file_that_is_none_is_refused_whole(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RequestError, match=message) as found:
        read_jobs(path)
    assert len(str(found.value)) < 500


def test_lines_of_other_batch_services_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    line = {"custom_id": "b", "method": "POST", "url": "/v1/videos", "body": {"prompt": "\u2028"}}
    path.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n\r\n{json.dumps(line)}".encode())
    found = read_jobs(path)
    assert [(job.custom_id, job.line) for job in found] == [("a", 1), ("b", 3)]
    assert found[1].body == {"prompt": "\u2028"}
    with pytest.raises(RequestError, match="cannot be read"):
        read_jobs(tmp_path)


IDS = [
    "a", "A", "a.b", "a/b", "a\\b", "../a", "/etc/passwd", "..", ".", ".a", "a.", "a ", " a", "con",
    "CON", "con.x", "nul.txt", "lpt1", "é", "e\u0301", "E\u0301", "ß", "SS", "ſ", "s", "\0", "a\nb",
    "a-0123456789abcdef", "a" * 100, "a" * 101, "a" * 512, "名" * 512, "\udc80", "a:b", "-rf", "~",
    "results.jsonl", "%2e%2e", "request-1", "Request-1", "REQUEST-1", "C:\\x", "a\u202eb",
]  # fmt: skip


def test_every_id_has_a_name_of_its_own_on_every_file_system() -> None:
    names = [file_name(each) for each in IDS]
    assert len({name.casefold() for name in names}) == len(IDS)
    for name in names:
        assert len(name) <= 120
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*\.mp4", name)
        assert name.split(".")[0] not in ("con", "nul", "lpt1")
    assert file_name("request-1") == "request-1.mp4"
    # No plain id is the name that another one was given.
    taken = file_name("A").removesuffix(".mp4")
    assert file_name(taken) != file_name("A")


def test_a_body_is_that_of_the_videos_api() -> None:
    schema = pytest.importorskip("hummingbird_edge.serve.schema")
    fields = set(schema.CreateBody.model_fields)
    assert set(Body.__struct_fields__) == fields - {"device"}
    manifest = Bundle.open(BUILTIN).manifest
    options = {**OPTIONS, "seed": 7, "decoder": "full"}
    body = {"prompt": "x", "size": "128x64", "seconds": "0.5", "guidance_scale": 3, "seed": 5}
    found = request_of(body, options, manifest)
    assert (found.width, found.height, found.seed, found.steps) == (128, 64, 5, 1)
    assert (found.frames, found.guidance) == (round(0.5 * found.fps), 3.0)
    found = request_of({**body, "num_frames": 2, "width": 128, "fps": 4}, options, manifest)
    assert (found.width, found.height, found.frames, found.fps) == (128, 64, 2, 4)
    assert request_of({"prompt": "x", "model": manifest.name}, options, manifest).seed == 7


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "prompt"),
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "x" * 2001}, "prompt"),
        ({"prompt": "x", "promt": "y"}, "promt"),
        ({"prompt": "x", "seed": "3"}, "seed"),
        ({"prompt": "x", "seed": 1 << 70}, "seed"),
        ({"prompt": "x", "num_frames": True}, "num_frames"),
        ({"prompt": "x", "size": "64"}, "size"),
        ({"prompt": "x", "size": "64x64\n"}, "64x64"),
        ({"prompt": "x", "seconds": "0"}, "frames is 0"),
        ({"prompt": "x", "width": 65}, "does not divide"),
        ({"prompt": "x", "size": "64x64", "width": 32}, "leave one of them out"),
        ({"prompt": "x", "seconds": "1", "num_frames": 99}, "leave one of them out"),
        ({"prompt": "x", "model": "sora-2"}, "the model is 'sora-2'"),
        ({"prompt": "x", "decoder": "tiny"}, "has no tiny decoder"),
    ],
)
def test_a_body_that_cannot_be_made_says_why(body: Mapping[str, Any], message: str) -> None:
    options = {**OPTIONS, "seed": 7, "decoder": "full"}
    with pytest.raises(RequestError, match=message):
        request_of(body, options, Bundle.open(BUILTIN).manifest)


def a_result(folder: Path, name: str, digest: str) -> Result:
    """Put a video into a folder; returns the line that describes it."""
    path = folder / "videos" / file_name(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode())
    where = path.relative_to(folder).as_posix()
    return Result(name, "completed", where, sha256_of(path), digest, {"total_s": 1.0})


def test_a_torn_line_is_made_again_and_others_stay(tmp_path: Path) -> None:
    wanted = dict.fromkeys("abcde", "d")
    with open_results(tmp_path, wanted) as results:
        assert results.finished == {}
        for name in "abc":
            results.add(a_result(tmp_path, name, "d"))
        results.add(Result("d", "failed", error=Failure("x", "y")))
        results.add(Result("other", "failed", error=Failure("x", "y")))
        results.add(a_result(tmp_path, "e", "d"))
    whole = results.file.read_bytes()
    (tmp_path / "videos" / "b.mp4").write_bytes(b"changed")
    (tmp_path / "videos" / "c.mp4").unlink()
    for torn in (whole[:-1], whole[:-30], whole[:-30] + b"\n"):
        results.file.write_bytes(torn)
        with open_results(tmp_path, wanted) as results:
            assert list(results.finished) == ["a"]
        assert [each["custom_id"] for each in read_results(tmp_path)] == ["a", "other"]


def test_another_request_of_the_same_name_is_refused(tmp_path: Path) -> None:
    with open_results(tmp_path, {"a": "d"}) as results:
        results.add(a_result(tmp_path, "a", "d"))
    with (
        pytest.raises(RequestError, match="'a' with other settings or of another model"),
        open_results(tmp_path, {"a": "e"}),
    ):
        pass
    with open_results(tmp_path, {"b": "e"}) as results:
        results.add(a_result(tmp_path, "b", "e"))
    assert [each["custom_id"] for each in read_results(tmp_path)] == ["a", "b"]


def test_of_several_other_requests_the_first_job_is_named(tmp_path: Path) -> None:
    with open_results(tmp_path, dict.fromkeys("ab", "d")) as results:
        for name in "ba":  # jobs end in any order
            results.add(a_result(tmp_path, name, "d"))
    with (
        pytest.raises(RequestError, match="'a' with other settings"),
        open_results(tmp_path, dict.fromkeys("ab", "e")),
    ):
        pass


def test_a_folder_is_worked_on_by_one_command(tmp_path: Path) -> None:
    with open_results(tmp_path, {}) as results:
        again = open_results(tmp_path, {})
        with pytest.raises(OutputError, match="another command works on"), again:
            pass
        results.file.write_text("nonsense\n{}\n", encoding="utf-8")
    with pytest.raises(OutputError, match="line 1 is no result"), open_results(tmp_path, {}):
        pass
    file = tmp_path / "file"
    file.touch()
    with (
        pytest.raises(OutputError, match="choose another with --output-dir"),
        open_results(file, {}),
    ):
        pass


def test_a_digest_tells_requests_and_models_apart() -> None:
    request = Request("x", 2, 64, 64, 1, 7.5, 8, 3)
    others = [Request("x", 2, 64, 64, 1, 7.5, 8, 4), Request("y", 2, 64, 64, 1, 7.5, 8, 3)]
    digests = {digest_of(request, "m"), digest_of(request, "n")}
    digests |= {digest_of(other, "m") for other in others}
    assert len(digests) == 4


def tasks(count: int) -> list[Task]:
    request = Request("x", 2, 64, 64, 1, 7.5, 8, 3)
    return [Task(str(number), request, Path(f"{number}.mp4")) for number in range(count)]


class Fake:
    """A worker that dies of what it is told to."""

    def __init__(self, deadly: Callable[[Task], bool] = lambda _: False) -> None:
        self.deadly, self.made, self.closed = deadly, list[str](), 0

    def start(self) -> None:
        pass

    def make(self, task: Task) -> Answer:
        if self.deadly(task):
            raise WorkerEnded("it fell")
        time.sleep(0.005)
        self.made.append(task.custom_id)
        return Answer({"total_s": 0.0})

    def close(self) -> None:
        self.closed += 1


def test_what_a_dead_worker_was_making_goes_to_another() -> None:
    died, workers = set[str](), list[Fake]()

    def deadly(task: Task) -> bool:
        """Tell that every third task kills the first worker that takes it."""
        is_first = int(task.custom_id) % 3 == 0 and task.custom_id not in died
        died.add(task.custom_id)
        return is_first

    def start() -> Worker:
        workers.append(Fake(deadly))
        return workers[-1]

    found = list(Crew(tasks(20), lambda: {"one": start, "two": start}).run())
    assert Counter(task.custom_id for task, _ in found) == {str(n): 1 for n in range(20)}
    assert all(answer.timings for _, answer in found)
    assert Counter(name for each in workers for name in each.made) == Counter(map(str, range(20)))
    assert all(each.closed for each in workers)
    assert len(workers) >= 9


def test_a_task_that_kills_all_workers_fails_alone() -> None:
    places = {"one": lambda: Fake(lambda task: task.custom_id == "1")}
    found = {task.custom_id: answer for task, answer in Crew(tasks(3), lambda: places).run()}
    assert found["1"].code == "worker_ended"
    assert "3 workers ended while they made it" in found["1"].message
    assert [found[name].code for name in "02"] == ["", ""]


def test_a_task_may_have_the_name_of_a_place() -> None:
    places = {"1": lambda: Fake(lambda task: task.custom_id == "1")}
    found = {task.custom_id: answer.code for task, answer in Crew(tasks(4), lambda: places).run()}
    assert found == {"0": "", "1": "worker_ended", "2": "", "3": ""}


def test_workers_amid_a_video_end_side_by_side() -> None:
    all_busy, ending = threading.Barrier(3), threading.Barrier(2)

    class Busy(Fake):
        def __init__(self) -> None:
            super().__init__()
            self.ended = threading.Event()

        def make(self, task: Task) -> Answer:
            all_busy.wait(10)
            self.ended.wait(60)
            raise WorkerEnded("it was ended")

        def close(self) -> None:
            if not self.closed:
                ending.wait(10)  # raises where the other one is not ending meanwhile
            super().close()
            self.ended.set()

    def full(task: Task) -> bool:
        all_busy.wait(10)
        raise OutputError("the disk is full")

    places = {"one": Busy, "two": Busy, "three": lambda: Fake(full)}
    with pytest.raises(OutputError, match="the disk is full"):
        list(Crew(tasks(3), lambda: places).run())


def test_places_come_and_go() -> None:
    there = {"one": lambda: Fake(lambda task: task.custom_id == "2")}

    def places() -> Mapping[str, Callable[[], Worker]]:
        return there

    found = list[str]()
    for task, _ in Crew(tasks(6), places).run():
        found.append(task.custom_id)
        if task.custom_id == "1":
            del there["one"]
            there["two"] = Fake
    assert sorted(found) == list("012345")


def _refuse(error: Exception) -> Worker:
    raise error


@pytest.mark.slow
def test_a_place_of_no_use_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    bad = partial(_refuse, DeviceError("no such device"))
    flaky = partial(_refuse, WorkerEnded("it fell"))
    found = list(Crew(tasks(5), lambda: {"bad": bad, "flaky": flaky, "good": Fake}).run())
    assert len(found) == 5
    assert "note: bad is left out: no such device" in capsys.readouterr().err
    with pytest.raises(DeviceError, match=r"no worker is left for 5 videos: (no such|it fell)"):
        list(Crew(tasks(5), lambda: {"bad": bad, "flaky": flaky}).run())
    with pytest.raises(DeviceError, match="no worker is left for 5 videos: all have gone"):
        list(Crew(tasks(5), dict).run())
    broken = partial(_refuse, ZeroDivisionError("a fault"))
    with pytest.raises(ZeroDivisionError):
        list(Crew(tasks(5), lambda: {"broken": broken, "good": Fake}).run())


def test_a_place_that_can_make_no_more_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def full(_: Task) -> bool:
        raise DeviceError("its disk is full")

    found = list(Crew(tasks(20), lambda: {"full": lambda: Fake(full), "good": Fake}).run())
    assert Counter(task.custom_id for task, _ in found) == {str(n): 1 for n in range(20)}
    assert not any(answer.code for _, answer in found)
    assert "note: full is left out: its disk is full" in capsys.readouterr().err
    with pytest.raises(DeviceError, match="no worker is left for 5 videos: its disk is full"):
        list(Crew(tasks(5), lambda: {"full": lambda: Fake(full)}).run())


def test_an_error_that_no_other_worker_avoids_ends_the_batch() -> None:
    def deadly(_: Task) -> bool:
        raise OutputError("the disk is full")

    with pytest.raises(OutputError, match="the disk is full"):
        list(Crew(tasks(5), lambda: {"one": lambda: Fake(deadly), "two": Fake}).run())


@pytest.mark.skipif(not hasattr(psutil.Process, "cpu_affinity"), reason="the system has no such")
def test_workers_keep_to_cores_of_their_own() -> None:
    program = (
        "import psutil, sys\n"
        "from hummingbird_edge.runtime.cli.batch.worker import Cores\n"
        "Cores(int(sys.argv[1]), int(sys.argv[2])).keep()\n"
        "print(psutil.Process().cpu_affinity())"
    )
    every = psutil.Process().cpu_affinity() or []
    if len(every) < 2:
        pytest.skip("one core")

    def kept(first: int, count: int) -> list[int]:
        arguments = [sys.executable, "-c", program, str(first), str(count)]
        return list(json.loads(subprocess.check_output(arguments, text=True)))

    assert kept(0, 1 << 30) == every
    assert kept(0, 1) == every[:1]
    assert kept(len(every) + 1, 1) == every[1:2]
    Cores().keep()
    assert psutil.Process().cpu_affinity() == every


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "jobs.jsonl"), "a batch is .*--output-dir DIR.*: --output-dir is missing$"),
        (("a cat", "--output-dir", "out"), "a batch is hb-run --batch JOBS.jsonl"),
        (("--ray", "auto"), "a batch is hb-run.*: --batch and --output-dir are missing$"),
        (("a cat", "--batch", "j", "--output-dir", "o"), "--batch takes no PROMPT"),
        (("--fast", "--batch", "j", "--output-dir", "o"), "--batch takes no --fast"),
        (("--batch", "j", "--output-dir", "o", "--resume"), "are separate commands"),
        (("--batch", "j", "--output-dir", "o"), "the jobs in j cannot be read"),
    ],
)
def test_what_does_not_go_with_a_batch(
    hb: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert_refused(hb("hb-run", *arguments, cwd=tmp_path), 2, "hb-run", message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_batch_is_made_and_gone_on_with(hb: Command, tmp_path: Path) -> None:
    jobs, out = write_jobs(tmp_path / "jobs.jsonl", 5), tmp_path / "out"
    command = ("hb-run", "--batch", jobs, "--output-dir", out, *SMALL)
    done = hb(*command)
    assert done.returncode == 0, done.stderr
    path, summary = done.stdout.splitlines()
    assert path == str(out / "results.jsonl")
    assert summary.startswith("5 made, 0 failed, ")
    first, *told = done.stderr.splitlines()
    assert first == "5 jobs, 0 are finished"
    # Engines may print as well.
    assert re.findall(r"^\d+/\d+", "\n".join(told), re.M) == [f"{n}/5" for n in range(1, 6)]
    assert_whole(out, 5)
    assert [path.read_bytes() for path in sorted((out / "videos").iterdir())] == alone(tmp_path, 5)
    lines = {each["custom_id"]: each for each in read_results(out)}
    assert set(lines["job-0"]["timings"]) >= {"load_s", "unet_step_s", "total_s"}

    # What is missing is made; what is there stays as it is.
    (out / "videos" / "job-3.mp4").unlink()
    before = (out / "videos" / "job-1.mp4").stat().st_mtime_ns
    write_jobs(jobs, 6)
    done = hb(*command, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    told_json = json.loads(done.stdout)
    assert (told_json["finished_before"], told_json["made"], told_json["failed"]) == (4, 2, 0)
    assert "/6 " not in done.stderr
    assert_whole(out, 6)
    assert (out / "videos" / "job-1.mp4").stat().st_mtime_ns == before
    again = {each["custom_id"]: each for each in read_results(out)}
    assert again["job-3"]["sha256"] == lines["job-3"]["sha256"]
    assert hb(*command).stdout.splitlines()[1].startswith("0 made, 0 failed, ")

    done = hb(*command, "--steps", "2")
    assert_refused(done, 2, "hb-run", "'job-0' with other settings or of another model")
    assert_whole(out, 6)


@pytest.mark.slow
def test_what_cannot_be_made_is_a_result_too(hb: Command, tmp_path: Path) -> None:
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    bodies = [{"prompt": PROMPTS[0]}, {"prompt": "x", "width": 65}, {"promt": "y"}]
    lines = [json.dumps({"custom_id": f"Job {n}", "body": body}) for n, body in enumerate(bodies)]
    jobs.write_text("\n".join(lines), encoding="utf-8")
    for _ in range(2):
        done = hb("hb-run", "--batch", jobs, "--output-dir", out, *SMALL)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert "2 of 3 jobs failed, first 'Job 1' (line 2: width 65 does not divide by" in last
        assert last.endswith("correct what is invalid, then run the same command again")
        assert "Traceback" not in done.stderr
        found = {each["custom_id"]: each for each in read_results(out)}
        assert len(read_results(out)) == 3
        assert found["Job 0"]["status"] == "completed"
        assert found["Job 1"]["status"] == found["Job 2"]["status"] == "failed"
        assert found["Job 2"]["error"]["code"] == "invalid_value"
        assert "line 3: the body is not one" in found["Job 2"]["error"]["message"]
        assert found["Job 1"]["path"] is None
    (video,) = (out / "videos").iterdir()
    assert video.name.startswith("job_0-")


@pytest.mark.slow
@pytest.mark.parametrize("device", ["dml", "cpu+", "nothing", "cpu+nothing"])
def test_devices_that_cannot_be_had_are_refused(hb: Command, tmp_path: Path, device: str) -> None:
    if device == "dml" and sys.platform == "win32":
        pytest.skip("it may be there")
    jobs, out = write_jobs(tmp_path / "jobs.jsonl", 2), tmp_path / "out"
    done = hb("hb-run", "--batch", jobs, "--output-dir", out, "--device", device, "--quiet")
    assert done.returncode in (1, 2)
    assert done.stderr.splitlines()[-1].startswith("hb-run: ")
    assert "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals end a process elsewhere")
def test_a_killed_command_loses_and_doubles_nothing(tmp_path: Path) -> None:
    count, draw = 10, random.Random(3)
    jobs, out = write_jobs(tmp_path / "jobs.jsonl", count), tmp_path / "out"
    command = command_line("hb-run", "--batch", jobs, "--output-dir", out, *SMALL, "--quiet")
    for kill in ("SIGKILL", "SIGINT", "SIGKILL", "SIGTERM", "SIGKILL"):
        before = len(read_results(out)) if (out / "results.jsonl").exists() else 0
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
            workers = list[psutil.Process]()
            while started.poll() is None and _lines_of(out) < before + 2:
                time.sleep(0.005)
            time.sleep(draw.random() / 20)
            if started.poll() is None:
                workers = psutil.Process(started.pid).children()
                started.send_signal(getattr(signal, kill))
            _, errors = started.communicate(timeout=60)
        assert "Traceback" not in errors
        # No worker outlives its command.
        assert not psutil.wait_procs(workers, timeout=30)[1]
        if kill != "SIGKILL" and started.returncode:
            assert not [path for path in (out / "videos").iterdir() if path.name[0] == "."]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_whole(out, count)
    found = [(out / "videos" / f"job-{n}.mp4").read_bytes() for n in range(count)]
    assert found == alone(tmp_path, count)


def _lines_of(folder: Path) -> int:
    path = folder / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals end a process elsewhere")
def test_a_killed_workers_video_is_made_again(tmp_path: Path) -> None:
    jobs, out = write_jobs(tmp_path / "jobs.jsonl", 8, num_inference_steps=8), tmp_path / "out"
    command = command_line("hb-run", "--batch", jobs, "--output-dir", out, *SMALL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        while started.poll() is None and _lines_of(out) < 1:
            time.sleep(0.005)
        for worker in psutil.Process(started.pid).children():
            worker.kill()
        _, errors = started.communicate(timeout=120)
    assert started.returncode == 0, errors
    assert errors.count("was ended by SIGKILL: what it was making is made again") in (1, 2)
    assert_whole(out, 8)
