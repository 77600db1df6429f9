"""A folder of samples: nothing measured is lost, nothing of another machine gets in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibrate.profile_grid import Point
from calibrate.samples import LINK_COLUMNS, STEP_COLUMNS, Samples
from traces import BadInput

FACTS = {"vllm": "0.32.0", "asked": {"max_num_seqs": 16, "seed": 0}, "date": "today", "num_gpu_blocks": 100}


def row(point: Point) -> dict[str, object]:
    names = ("phase", "batch", "tokens_or_context", "tokens", "kv_tokens", "pairs", "seqs")
    return dict.fromkeys(STEP_COLUMNS, 1) | {name: getattr(point, name) for name in names} | {"status": "ok"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = Samples(tmp_path / "new" / "samples", resume=False)
    samples.begin(FACTS)
    samples.add(row(Point(4, 100)))
    samples.add(row(Point(chunks=1, chunk_tokens=65)) | {"status": "skipped: out of memory, they say"})
    return samples.folder


def test_rows_are_on_the_disk_at_once(folder: Path) -> None:
    assert (folder / "steps.csv").read_text().splitlines() == [
        ",".join(STEP_COLUMNS), "decode,4,100,4,400,0.0,4,1,1,1,1,1,1,1,1,ok",
        'prefill,1,65,65,0,2112.5,1,1,1,1,1,1,1,1,1,"skipped: out of memory, they say"']


def test_resuming_finds_what_was_measured(folder: Path) -> None:
    samples = Samples(folder, resume=True)
    samples.begin(FACTS | {"date": "tomorrow", "num_gpu_blocks": 99})
    assert samples.measured() == {Point(4, 100).key, Point(chunks=1, chunk_tokens=65).key}
    assert json.loads((folder / "machine.json").read_text()) == FACTS


@pytest.mark.parametrize("written", ["", ",".join(STEP_COLUMNS)[:30], None])
def test_a_header_that_was_never_written(folder: Path, written: str | None) -> None:
    (folder / "steps.csv").unlink()
    if written is not None:
        (folder / "steps.csv").write_text(written)
    samples = Samples(folder, resume=True)
    samples.begin(FACTS)
    samples.add(row(Point(4, 100)))
    assert (folder / "steps.csv").read_text().splitlines()[0] == ",".join(STEP_COLUMNS)
    assert samples.measured() == {Point(4, 100).key}


@pytest.mark.parametrize("line", ["decode,x,1,1,1,1,1,1,1,1,1,1,1,1,1,ok", "decode"])
def test_rows_that_cannot_be_read_are_one_line(folder: Path, line: str) -> None:
    with (folder / "steps.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BadInput, match=r"--resume: .*steps.csv: cannot be read"):
        Samples(folder, resume=True).begin(FACTS)


def test_a_row_cut_short_is_measured_again(folder: Path) -> None:
    whole = (folder / "steps.csv").read_bytes()
    (folder / "steps.csv").write_bytes(whole[:-9])
    samples = Samples(folder, resume=True)
    assert samples.measured() == {Point(4, 100).key}
    samples.add(row(Point(chunks=1, chunk_tokens=65)) | {"status": "skipped: out of memory, they say"})
    assert (folder / "steps.csv").read_bytes() == whole


@pytest.mark.parametrize(("change", "why"), [
    ({"vllm": "0.26.0"}, 'was measured with vllm "0.32.0", this would be "0.26.0"'),
    ({"asked": {"max_num_seqs": 8, "seed": 0}}, "was measured with asked.max_num_seqs 16, this would be 8"),
    ({"asked": {"max_num_seqs": 16, "seed": 0, "enforce_eager": True}}, "asked.enforce_eager null, this would be true"),
    ({"gpu_name": "H200"}, 'gpu_name null, this would be "H200"')])
def test_samples_of_another_configuration_are_refused(folder: Path, change: dict[str, object], why: str) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BadInput, match=r"--resume: .*") as error:
        Samples(folder, resume=True).begin(FACTS | change)
    assert why in str(error.value)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_folders_that_hold_something_are_left_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds samples already; --resume"):
        Samples(folder, resume=False)
    with pytest.raises(BadInput, match=r"is not empty and holds no machine\.json"):
        Samples(tmp_path / "new", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is not a directory"):
        Samples(tmp_path / "file", resume=False)
    with pytest.raises(BadInput, match=r"-o: .*file: is not a directory"):
        Samples(tmp_path / "file" / "below", resume=False)


def test_nothing_is_written_before_the_machine_is_known(tmp_path: Path) -> None:
    Samples(tmp_path / "samples", resume=False)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_machine_file_is_one_line(folder: Path) -> None:
    (folder / "machine.json").write_text("{")
    with pytest.raises(BadInput, match=r"samples: .*machine\.json: cannot be read") as error:
        Samples(folder, resume=True)
    assert "\n" not in str(error.value)


def test_links_begin_anew(folder: Path) -> None:
    samples = Samples(folder, resume=True)
    for _ in range(2):
        samples.begin_links()
        samples.add_link(dict.fromkeys(LINK_COLUMNS, 7))
    assert (folder / "links.csv").read_text().splitlines() == [",".join(LINK_COLUMNS), ",".join("7" * len(LINK_COLUMNS))]
    samples.note(links="measured")
    assert samples.links == "measured"
