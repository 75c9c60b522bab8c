"""Run by the interpreter that has the official package; imports nothing of this project.

A job (JSON on stdin) names a dimension, a folder of videos or several, and a file for the answer:
the official code finds the videos of each folder, and scores all of them together.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Python searches a script's folder first: its modules would hide others of the same names.
    sys.path = [path for path in sys.path if path != str(Path(__file__).parent)]


def find(vbench: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the prompts of the dimension as the official code does, with the videos it found."""
    merged = list[dict[str, Any]]()
    for number, folder in enumerate(job["folders"]):
        path = vbench.build_full_info_json(
            folder,
            f"folder{number}",
            [job["dimension"]],
            mode="vbench_standard" if job["official"] else "custom_input",
            prompt_list=job["prompts"].get(folder, {}),
        )
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
        if job["official"] and merged:
            for whole, part in zip(merged, entries, strict=True):
                whole["video_list"] += part["video_list"]
        else:
            merged += entries
    return merged


def score(vbench: Any, job: dict[str, Any], entries: list[dict[str, Any]]) -> float:
    """Return the official score of these videos."""
    from vbench.utils import init_submodules

    info = Path(vbench.output_path) / "found.json"
    info.write_text(json.dumps(entries), encoding="utf-8")
    name = job["dimension"]
    needs = init_submodules([name], local=True)[name]
    module = importlib.import_module(f"vbench.{name}")
    # What the package's own command passes to all of them unless told otherwise.
    options = {"imaging_quality_preprocessing_mode": "longer"}
    compute = getattr(module, f"compute_{name}")
    return float(compute(str(info), vbench.device, needs, **options)[0])


def main() -> None:
    """Do the job."""
    job = json.load(sys.stdin)
    import torch
    from vbench import VBench

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vbench = VBench(device, job["info"], job["output"])
    answer = score(vbench, job, find(vbench, job))
    Path(job["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
