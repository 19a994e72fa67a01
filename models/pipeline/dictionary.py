"""Trains the dictionary that bodies of frames are compressed with.

    fleetmend-bench work-samples SAMPLES
    python -m pipeline.dictionary SAMPLES ../lib/event/src/batch/bodies-1.zdict

A dictionary that was shipped is never changed: agents and stores hold bodies that need it. A better one gets the
next number and stands beside it.
"""

import argparse
import pathlib

import zstandard

# Numbers from 32,768 on are free for private use (RFC 8878, section 5).
NUMBER = 40_001
# Larger ones gained less than two per cent on other hosts and cost memory in every agent.
SIZE = 64 * 1024
# A schema is in every body of its table, but once in its samples.
TABLE_REPEATS = 3


def samples(folder: pathlib.Path) -> list[bytes]:
    """The bodies in a folder, the empty one of each table several times."""
    files = sorted(folder.iterdir())
    tables = [file.read_bytes() for file in files if file.name.startswith("table-")]
    rest = [file.read_bytes() for file in files if not file.name.startswith("table-")]
    if not tables or not rest:
        raise SystemExit(f"{folder} holds no samples: make them with fleetmend-bench work-samples")
    return tables * TABLE_REPEATS + rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise SystemExit(f"{arguments.output} is there: a dictionary that was shipped is never changed")
    dictionary = zstandard.train_dictionary(SIZE, samples(arguments.samples), dict_id=NUMBER)
    arguments.output.write_bytes(dictionary.as_bytes())
    print(f"{arguments.output}: {len(dictionary.as_bytes())} bytes, number {dictionary.dict_id()}")


if __name__ == "__main__":
    main()
