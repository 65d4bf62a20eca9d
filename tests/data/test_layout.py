"""Users' folders as they are: labels, captions and splits of the known sets, from names and tables alone."""

from pathlib import Path

import pytest

from pavdit.clip import DataError
from pavdit.config import ConfigError, DataConfig
from pavdit.data.layout import Listing, list_sources

VGGSOUND = """---1_cCGK4M,1,"people, crowd",train
0nib7bMm8BA,15,drum kit,test
-a_b-c_d-eX,3,dog barking,train
-a_b-c_d-eX,40,cat purring,test
"""
AUDIOSET = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"
--BfvyPmVMo, 20.000, 30.000, "/m/03l9g"
"""
LANDSCAPE = """ytid,start_time,class,set
0-7kx9q2AbC,10,raining,train
0-7kx9q2AbC,20,raining,train
ZZ7kx9q2AbC,0,thunder,test
"""


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listing(path: Path, **options: object) -> Listing:
    return list_sources(DataConfig(kind="folder", path=path, **options))


def told(found: Listing) -> dict[str, tuple[str, str]]:
    return {s.path.relative_to(found.root).as_posix(): (s.label, s.split) for s in found.sources}


def test_landscape_by_its_folders(tmp_path: Path) -> None:
    put(tmp_path, "train/raining/b.mp4", "train/thunder/a.MP4", "test/raining/c.mp4", "train/loose.mp4")
    found = listing(tmp_path)
    assert told(found) == {
        "test/raining/c.mp4": ("raining", "test"),
        "train/loose.mp4": ("", "train"),
        "train/raining/b.mp4": ("raining", "train"),
        "train/thunder/a.MP4": ("thunder", "train"),
    }
    assert found.summary == (
        f"{tmp_path}: 4 files, layout folders, labels by folder: 2 classes, 3 with a caption; 1 test, 3 train"
    )


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    found = listing(put(tmp_path, "train/a.mp4", "plane/b.mp4"))
    assert told(found) == {"plane/b.mp4": ("plane", ""), "train/a.mp4": ("train", "")}


def test_landscape_by_its_table(tmp_path: Path) -> None:
    put(tmp_path, "0-7kx9q2AbC_010.mp4", "sub/0-7kx9q2AbCanything.mp4", "ZZ7kx9q2AbC.mp4", "unknown.mp4")
    (tmp_path / "landscape.csv").write_text(LANDSCAPE)
    found = listing(tmp_path)
    assert list(told(found).values()) == [
        ("raining", "train"),
        ("thunder", "test"),
        ("raining", "train"),
        ("", ""),
    ]
    assert f"layout table, labels by {tmp_path / 'landscape.csv'}, 1 files without a row" in found.summary


def test_vggsound(tmp_path: Path) -> None:
    root = put(
        tmp_path / "video",
        *("---1_cCGK4M_000001.mp4", "0nib7bMm8BA_15000_25000.mp4"),
        *("-a_b-c_d-eX_40000_50000.mp4", "-a_b-c_d-eX_000003.mp4"),
    )
    (tmp_path / "vggsound.csv").write_text(VGGSOUND)
    assert told(listing(root, labels=tmp_path / "vggsound.csv")) == {
        "---1_cCGK4M_000001.mp4": ("people, crowd", "train"),
        "-a_b-c_d-eX_000003.mp4": ("dog barking", "train"),
        "-a_b-c_d-eX_40000_50000.mp4": ("cat purring", "test"),
        "0nib7bMm8BA_15000_25000.mp4": ("drum kit", "test"),
    }
    put(root, "-a_b-c_d-eX.mp4")
    with pytest.raises(
        DataError, match=r"vggsound\.csv: want one row for -a_b-c_d-eX\.mp4, got lines 3 and 4, "
    ):
        listing(root, labels=tmp_path / "vggsound.csv")


def test_whole_stems_of_a_tsv_come_first(tmp_path: Path) -> None:
    root = put(tmp_path / "video", "-a_b-c_d-eX_000003.mp4", "-a_b-c_d-eX_000040.mp4")
    (tmp_path / "sets.tsv").write_text("id\tlabel\n-a_b-c_d-eX_000003\tdog\n-a_b-c_d-eX_000040\tcat\n")
    assert [label for label, _ in told(listing(root, labels=tmp_path / "sets.tsv")).values()] == [
        "dog",
        "cat",
    ]


def test_audioset(tmp_path: Path) -> None:
    put(tmp_path, "Y--4gqARaEJE.mp4", "--BfvyPmVMo_20.mp4")
    (tmp_path / "balanced.csv").write_text(AUDIOSET)
    assert [s.label for s in listing(tmp_path).sources] == ["/m/03l9g", "/m/068hy"]
    (tmp_path / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/068hy,"Pets, tame"\n1,/m/07q6cd_,Squeak\n2,/m/03l9g,Hammer\n'
    )
    hammer, pets = listing(tmp_path).sources
    assert (hammer.label, hammer.caption) == ("Hammer", "a video of Hammer")
    assert (pets.label, pets.caption) == ("Pets, tame", "a video of Pets, tame and Squeak")


def test_aist(tmp_path: Path) -> None:
    root = put(tmp_path, "train/gBR_sBM_cAll_d04_mBR0_ch01.mp4", "test/gJB_sFM_c01_d08_mJB3_ch05_2.mp4")
    assert told(listing(root)) == {
        "test/gJB_sFM_c01_d08_mJB3_ch05_2.mp4": ("ballet jazz", "test"),
        "train/gBR_sBM_cAll_d04_mBR0_ch01.mp4": ("break", "train"),
    }
    put(root, "train/other.mp4")
    assert "layout folders" in listing(root).summary
    with pytest.raises(DataError, match=r"other\.mp4: want a name of AIST\+\+ such as "):
        listing(root, layout="aist")


def test_a_table_lists_files_and_captions(tmp_path: Path) -> None:
    put(tmp_path, "videos/ä b.mp4", "videos/c.mov", "videos/unlisted.mp4")
    (tmp_path / "videos" / "c.txt").write_text("a side-car\n")
    table = tmp_path / "set.csv"
    table.write_text(
        "path,id,fps,text,split\nvideos/ä b.mp4,1,24,a bell rings,valid\nvideos/c.mov,2,25,no,train\n"
    )
    found = listing(table)
    assert [(s.path.name, s.caption, s.split) for s in found.sources] == [
        ("c.mov", "a side-car", "train"),
        ("ä b.mp4", "a bell rings", "val"),
    ]
    assert [s.caption for s in listing(table, captions="labels").sources] == ["", ""]
    table.write_text("path,text\nvideos/none.mp4,x\n")
    with pytest.raises(DataError, match=r"set\.csv, line 2: want the path of a clip, got no such file: "):
        listing(table)


def test_a_strange_table_is_left_aside_unless_it_is_named(tmp_path: Path) -> None:
    put(tmp_path, "dog/a.mp4")
    table = tmp_path / "notes.csv"
    table.write_text("day,weather\n1,rain\n")
    wrong = r"notes\.csv: want a header with path or ytid or youtube_id or video_id or id, or the columns of"
    assert told(listing(tmp_path)) == {"dog/a.mp4": ("dog", "")}
    assert "notes.csv left aside: " in listing(tmp_path).summary
    with pytest.raises(DataError, match=wrong):
        listing(tmp_path, labels=table)
    table.write_text("id,label\nb,rain\n")
    with pytest.raises(DataError, match=r"notes\.csv: want rows that fit the 1 files, got none"):
        listing(tmp_path, layout="table")
    table.write_text("id,label\na\n")
    with pytest.raises(DataError, match=r"notes\.csv, line 2: want 2 columns, got 1"):
        listing(tmp_path, labels=table)
    put(tmp_path, "more.tsv")
    assert "2 tables in it, none is used unless labels names it" in listing(tmp_path).summary
    with pytest.raises(ConfigError, match=r"data\.layout table: want labels"):
        listing(tmp_path, layout="table")
    with pytest.raises(ValueError, match="data: want layout 'table' beside labels, got 'aist'"):
        DataConfig(kind="folder", path=tmp_path, labels=table, layout="aist")
