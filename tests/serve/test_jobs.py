"""The file of jobs, without a server."""

import sqlite3
from contextlib import closing
from pathlib import Path

from hummingbird_edge.serve import jobs as module
from hummingbird_edge.serve.jobs import Jobs

VIDEO = {
    "model": "m",
    "prompt": "a",
    "width": 16,
    "height": 16,
    "num_frames": 9,
    "fps": 4,
    "num_inference_steps": 1,
    "guidance_scale": 1.5,
    "seed": 1,
    "device": "auto",
    "command": "hb-run",
}


def test_a_file_of_the_first_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    schema = (Path(module.__file__).parent / "jobs-1.sql").read_text(encoding="utf-8")
    row = {**VIDEO, "id": "video_1", "rank": 1.0, "created_at": 12.5, "error_code": "failed"}
    row |= {"error_message": "it is so", "promise": '{"seconds": 1.5, "text": "about"}'}
    with closing(sqlite3.connect(path)) as old:
        old.executescript(f"{schema} PRAGMA user_version = 1;")
        marks = ", ".join(f":{name}" for name in row)
        old.execute(f"INSERT INTO videos ({', '.join(row)}) VALUES ({marks})", row)
        old.commit()
    for _ in range(2):  # the second finds it as it is to be
        with closing(Jobs(path)) as jobs:
            job = jobs.find("video_1")
    assert job is not None
    assert (job.created_at, job.size, job.seconds, job.decoder) == (12, "16x16", "2.25", "full")
    assert (job.queue_position, job.enhancement, job.notes, job.backends) == (0, None, [], {})
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("failed", "it is so")
    assert job.promise is not None
    assert job.promise.seconds == 1.5


def test_queued_videos_of_absent_devices_go_to_any(tmp_path: Path) -> None:
    with closing(Jobs(tmp_path / "jobs.sqlite")) as jobs:
        cpu, dml = (jobs.add(**{**VIDEO, "device": name}) for name in ("cpu", "dml"))
        jobs.free(("cpu",))
        found = [job.device for key in (cpu, dml) if (job := jobs.find(key))]
        assert found == ["cpu", "auto"]
        assert jobs.claim("me", "openvino", ("other",)) is None
        first = jobs.claim("me", "openvino", ("m",))
        assert first is not None
        assert first.id == dml
        assert jobs.claim("me", "openvino", ("m",)) is None
        assert jobs.report(first, "me", status="completed", timings={"total": 2.0})
        assert not jobs.report(first, "me", progress=3)
        done = jobs.find(dml)
        assert done is not None
        assert (done.timings, done.status) == ({"total": 2.0}, "completed")


def test_moving_changes_the_order_alone(tmp_path: Path) -> None:
    with closing(Jobs(tmp_path / "jobs.sqlite")) as jobs:
        a, b, c = (jobs.add(**VIDEO) for _ in range(3))
        assert jobs.move(c, 0)
        assert jobs.queue() == [c, a, b]
        assert jobs.move(c, 99)
        assert jobs.queue() == [a, b, c]
        assert not jobs.move("nothing", 0)
        assert [job.id for job in jobs.page(a, 5, newest_first=False)] == [b, c]
        assert [job.id for job in jobs.page(None, 2)] == [c, b]
