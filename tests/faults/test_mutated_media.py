"""A dozen of the mutants of `benchmarks.faults.mutated_media`."""

from pathlib import Path

from benchmarks.faults.mutated_media import MUTATIONS, run


def test_no_mutant_is_missed(tmp_path: Path) -> None:
    records = run(2 * len(MUTATIONS), seed=1, num_workers=1, folder=tmp_path)
    assert [record for record in records if record["verdict"].startswith("MISSED")] == []
    assert sum("reported" in record["verdict"] for record in records) >= len(MUTATIONS)
