"""Files of prompts, and what is wrong with a row."""

import pytest

from pavdit.cli.prompts import Row, read_prompts
from pavdit.clip import DataError


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("a.txt", "\ufeffa ball, rolling\r\n\n  a bell \n", [Row("a ball, rolling"), Row("a bell")]),
        (
            "a.csv",
            'id,name,prompt,seed\n1,first,"a ball,\nrolling",7\n2,,"a ""bell""",\n',
            [Row("a ball,\nrolling", 7, "first"), Row('a "bell"')],
        ),
        (
            "a.jsonl",
            '{"prompt": "ä", "seed": 3}\n\n{"prompt": "b", "name": "b 2.0"}',
            [Row("ä", 3), Row("b", None, "b 2.0")],
        ),
    ],
)
def test_rows(tmp_path, name, text, rows):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_prompts(tmp_path / name) == rows


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "\n", ": want at least one prompt, got none"),
        ("a.txt", b"\xff\xfe", ": want a file of prompts, got 'utf-8' codec can't decode"),
        ("a.csv", "text,seed\na,1\n", ":1: want a column prompt, got text, seed"),
        ("a.csv", "", ":1: want a column prompt, got nothing"),
        ("a.csv", "prompt,seed\na,1\nb,-1\n", ":3: want seed a whole number from 0 on, got '-1'"),
        ("a.csv", "prompt,name\na,../b\n", ":2: want name of letters, digits, blanks and _ . -, got '../b'"),
        ("a.csv", 'prompt\n"a\n', ": want a file of prompts, got unexpected end of data"),
        ("a.jsonl", '{"prompt": "a"}\n["b"]\n', ":2: want a JSON object, got list"),
        ("a.jsonl", "{", ":1: want a JSON object, got Expecting property name"),
        ("a.jsonl", '{"prompt": 3}', ":1: want a prompt, got 3"),
        ("a.jsonl", '{"prompt": "a", "seed": 1.5}', ":1: want seed a whole number from 0 on, got 1.5"),
        ("none.csv", None, ": want a file of prompts, got No such file or directory"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, name, text, said):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"{path}{said}") and "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--prompts: want a file that ends in \.txt, \.csv, \.jsonl, got"):
        read_prompts(tmp_path / "a.xlsx")
