"""A coverage-guided fuzzer, libFuzzer, of one reader of files from elsewhere (on Linux).

    pip install atheris
    python tests/fuzz/fuzz.py archive FOLDER -max_total_time=3600

The readers are those of `readers.py`. FOLDER keeps what was tried; what makes a reader fail is
written beside it as `crash-...`, and belongs in `corpus/READER`, which `test_fuzz.py` reads.
"""

import runpy
import sys
import tempfile
from pathlib import Path

import atheris

_LIMITS = ("-timeout=10", "-rss_limit_mb=4096", "-max_len=65536")


def main() -> None:
    """Fuzz the reader that the first argument names, in the folder of the second."""
    with atheris.instrument_imports(include=["hummingbird_edge", "pickletools", "zipfile", "json"]):
        readers = runpy.run_path(str(Path(__file__).with_name("readers.py")))
    reader = readers["READERS"][sys.argv[1]]
    corpus, scratch = Path(sys.argv[2]), Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(reader.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(
        [sys.argv[0], *_LIMITS, *sys.argv[3:], str(corpus)],
        lambda content: readers["try_file"](reader, content, scratch) and None,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
