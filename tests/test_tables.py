"""Tables as people have them: what is read, what is recognised, what is refused and how."""

from __future__ import annotations

import datetime
import decimal
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrovae.data import load
from pyrovae.errors import UsageError
from pyrovae.schema import Column, Schema, write
from pyrovae.tables import table

PENGUINS = Path(__file__).with_name("penguins.csv")
N = float("nan")
CB = {"a": "category", "b": "boolean", "c": "count", "d": "date", "p": "positive", "r": "real"}


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


# a name; the file; the options; the columns; their kinds, by first letters; the values
FILES = [
    ("comma", lines("a,b", "1.5,2", "2.5,4"), {}, "a b", "rr", [[1.5, 2], [2.5, 4]]),
    ("semicolon", lines("a;b", "1.5;2", "2.5;4"), {}, "a b", "rr", [[1.5, 2], [2.5, 4]]),
    ("tab", lines("a\tb", "1.5\t2", "2.5\t4"), {}, "a b", "rr", [[1.5, 2], [2.5, 4]]),
    ("bar", lines("a|b", "1.5|2", "2.5|4"), {}, "a b", "rr", [[1.5, 2], [2.5, 4]]),
    ("spaces", lines("a b", " 1.5  2", "2.5 4"), {}, "a b", "rr", [[1.5, 2], [2.5, 4]]),
    ("colon", lines("a:b", "1.5:2", "2:4"), {"delimiter": ":"}, "a b", "rr", [[1.5, 2], [2, 4]]),
    ("one column", lines("a", "1.5", "2.5"), {}, "a", "r", [[1.5], [2.5]]),
    ("excel says", lines("sep=;", "a;b", "1,5;2", "2;4"), {}, "a b", "rr", [[1.5, 2], [2, 4]]),
    ("decimal comma", lines("a;b", "1,5;2", "2,25;4"), {}, "a b", "rr", [[1.5, 2], [2.25, 4]]),
    ("no header, commas", lines("1,5;2,5", "3,5;4,5"), {}, "column1 column2", "rr",
     [[1.5, 2.5], [3.5, 4.5]]),
    ("quoted decimals", lines('a,b', '"1,5",2', '"2,25",4'), {}, "a b", "rr",
     [[1.5, 2], [2.25, 4]]),
    ("one with a comma", lines("a", "1,5", "2,5"), {"decimal": ","}, "a", "r", [[1.5], [2.5]]),
    ("thousands", lines("a;b", "1,234.5;2", "12,345;4"), {}, "a b", "rr",
     [[1234.5, 2], [12345, 4]]),
    ("points of thousands", lines("a;b", "1.234,5;1.000", "12.345;2.000"), {}, "a b", "rr",
     [[1234.5, 1000], [12345, 2000]]),
    ("apostrophes", lines("a;b", "1'234.5;2", "12'345;4"), {}, "a b", "rr",
     [[1234.5, 2], [12345, 4]]),
    ("spaces of thousands", lines("a;b", "1 234,5;2", "12\u00a0345,0;4"), {}, "a b", "rr",
     [[1234.5, 2], [12345, 4]]),
    ("asked thousands", lines("a;b", "1,234;2", "2,345;4"), {"decimal": "."}, "a b", "rr",
     [[1234, 2], [2345, 4]]),
    ("asked decimals", lines("a;b", "1,234;2", "2,345;4"), {"decimal": ","}, "a b", "rr",
     [[1.234, 2], [2.345, 4]]),
    ("exponents", lines("a,b", "1e-3,+2", "-2.5E2,.5"), {}, "a b", "rr", [[0.001, 2], [-250, 0.5]]),
    ("no header", lines("1,2", "3,5"), {}, "column1 column2", "rr", [[1, 2], [3, 5]]),
    ("words, no header", lines("1.5,u", "3,u", "4,v", "5,v"), {}, "column1 column2", "rc",
     [[1.5, 0], [3, 0], [4, 1], [5, 1]]),
    ("header of years", lines("1990,1991", "1.5,2", "3,4"), {"header": True}, "1990 1991", "rr",
     [[1.5, 2], [3, 4]]),
    ("a number in the header", lines("gene,1", "2.5,7", "3,9"), {}, "gene 1", "rr",
     [[2.5, 7], [3, 9]]),
    ("words, none a header", lines("u,v", "u,w", "x,w", "x,v"), {"header": False},
     "column1 column2", "cc", [[0, 0], [0, 1], [1, 1], [1, 0]]),
    ("quotes", lines('"a","b, c"', '1.5,"x, y"', '2.5,"x, y"', '3,"z ""q"""', '4,"z ""q"""'), {},
     "a b,c", "rc", [[1.5, 0], [2.5, 0], [3, 1], [4, 1]]),
    ("a line within a cell", lines('a,b', '1.5,"x\ny"', '2.5,"x\ny"', '3,z', '4,z'), {}, "a b",
     "rc", [[1.5, 0], [2.5, 0], [3, 1], [4, 1]]),
    ("blank lines", lines("", "a,b", "", "1.5,2", "", "3,4", ""), {}, "a b", "rr",
     [[1.5, 2], [3, 4]]),
    ("windows", "a,b\r\n1.5,2\r\n3,4\r\n", {}, "a b", "rr", [[1.5, 2], [3, 4]]),
    ("comments", lines("# made by hand", "#", "a,b", "1.5,2", "3,4"), {}, "a b", "rr",
     [[1.5, 2], [3, 4]]),
    ("savetxt", lines("# a b", "1.5 2", "3 4"), {}, "a b", "rr", [[1.5, 2], [3, 4]]),
    ("blanks beside", lines("a , b", " 1.5, 2 ", "3 ,4"), {}, "a b", "rr", [[1.5, 2], [3, 4]]),
    ("missing", lines("a,b", "1.5,NA", "N/A,2", "?,4", "-,null", "2.5,", "nan,None", "3,8.5"), {},
     "a b", "rr", [[1.5, N], [N, 2], [N, 4], [N, N], [2.5, N], [N, N], [3, 8.5]]),
    ("missing words", lines("a,b", "1.5,u", "2,", "3,v", "4,?", "5,v", "6,u"), {}, "a b", "rc",
     [[1.5, 0], [2, N], [3, 1], [4, N], [5, 1], [6, 0]]),
    ("truth", lines("a,b", "1.5,True", "2,False", "3,TRUE"), {}, "a b", "rb",
     [[1.5, 1], [2, 0], [3, 1]]),
    ("yes", lines("a,b", "1.5,yes", "2,No", "3,", "4,no"), {"kinds": {"b": "boolean"}}, "a b", "rb",
     [[1.5, 1], [2, 0], [3, N], [4, 0]]),
    ("bits", lines("a,b", "1.5,1", "2,0", "3,"), {}, "a b", "rb", [[1.5, 1], [2, 0], [3, N]]),
    ("days", lines("a,d", "1.5,2024-02-28", "2,2024-03-01", "3,"), {}, "a d", "rd",
     [[1.5, 0], [2, 2], [3, N]]),
    ("hours", lines("a,d", "1.5,2024-02-28T10:00", "2,2024-02-28 13:00"), {}, "a d", "rd",
     [[1.5, 0], [2, 3]]),
    ("slashes", lines("a,d", "1.5,2024/2/28", "2,2024/3/1"), {}, "a d", "rd", [[1.5, 0], [2, 2]]),
    ("american", lines("a,d", "1.5,12/31/2023", "2,01/02/2024"), {}, "a d", "rd",
     [[1.5, 0], [2, 2]]),
    ("german", lines("a;d", "1.5;01.02.2024", "2;03.02.2024"), {}, "a d", "rd", [[1.5, 0], [2, 2]]),
    ("asked days", lines("a,d", "1.5,01/02/2024", "2,03/02/2024"), {"kinds": "d=day/month"}, "a d",
     "rd", [[1.5, 0], [2, 2]]),
    ("asked months", lines("a,d", "1.5,01/02/2024", "2,03/02/2024"),
     {"kinds": {"d": "month/day"}}, "a d", "rd", [[1.5, 0], [2, 60]]),
    ("months", lines("a,d", "1.5,3 Jan 2024", "2,5 January 2024"), {}, "a d", "rd",
     [[1.5, 0], [2, 2]]),
    ("codes", lines("a,c", *(f"{i + 0.5},{5 + i % 3}" for i in range(9))), {}, "a c", "rc",
     [[i + 0.5, i % 3] for i in range(9)]),
    ("counts", lines("a,n", *(f"{i + 0.5},{(i * i) % 97}" for i in range(15))), {}, "a n", "rn",
     [[i + 0.5, (i * i) % 97] for i in range(15)]),
    ("an index", lines(",a", *(f"{i},{i % 7 + 0.5}" for i in range(12))), {}, "a", "r",
     [[i % 7 + 0.5] for i in range(12)]),
    ("chosen", lines("a,b,c", "1.5,2,3.5", "2.5,4,5.5"), {"columns": "c,a"}, "c a", "rr",
     [[3.5, 1.5], [5.5, 2.5]]),
    ("not chosen", lines("a,b,c", "1.5,2,3.5", "2.5,4,5.5"), {"columns": ["-b"]}, "a c", "rr",
     [[1.5, 3.5], [2.5, 5.5]]),
    ("dropped", lines("a,b,c", "1.5,2 kg,3.5", "2.5,4 kg,5.5"), {"drop": "b"}, "a c", "rr",
     [[1.5, 3.5], [2.5, 5.5]]),
    ("a minus in a name", lines("-a,b", "1.5,2", "2.5,4"), {"columns": "-a"}, "-a", "r",
     [[1.5], [2.5]]),
    ("codes with zeros", lines("a,z", "1.5,007", "2,007", "3,010", "4,010"),
     {"kinds": {"z": "category"}}, "a z", "rc", [[1.5, 0], [2, 0], [3, 1], [4, 1]]),
    ("a kind", lines("a,y", "1.5,2007", "2,2008", "3,2007"), {"kinds": {"y": "category"}}, "a y",
     "rc", [[1.5, 0], [2, 1], [3, 0]]),
]  # fmt: skip
LETTERS = {"r": {"real", "positive"}, "c": {"category"}, "n": {"count"}, "b": {"boolean"},
           "d": {"date"}}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "options", "names", "kinds", "values"),
    [f[1:] for f in FILES],
    ids=[f[0] for f in FILES],
)
def test_files(tmp_path: Path, text: str, options, names: str, kinds: str, values) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    data = table(path, **options)
    assert [name.replace(" ", "") for name in data.schema.names] == names.split()
    for column, letter in zip(data.schema.columns, kinds, strict=True):
        assert column.kind in LETTERS[letter], column
    torch.testing.assert_close(data.x, torch.tensor(values).float(), equal_nan=True)
    again = table(path, schema=data.schema, **{k: v for k, v in options.items() if k != "columns"})
    torch.testing.assert_close(again.x, data.x, equal_nan=True)
    gaps = data.x.isnan().any(0).tolist()
    assert [column.gaps for column in data.schema.columns] == gaps
    back = data.schema.decode(data.x)
    torch.testing.assert_close(data.schema.encode(back), data.x, equal_nan=True)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "utf-32"]
)
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    text = lines("größe,ort", "1.5,Köln", "2.5,Köln", "3,Bonn", "4,Bonn")
    path.write_bytes(text.encode(encoding))
    data = table(path)
    assert data.schema.names == ("größe", "ort") and data.schema.columns[1].levels[1] == "Köln"
    assert bool(data.schema.notes) == (encoding == "cp1252")
    given = table(path, encoding=encoding)
    assert given.schema == data.schema and not given.schema.notes


def test_an_encoding_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("größe\n1.5\n2.5\n".encode("mac_roman"))
    assert table(path, encoding="mac_roman").schema.names == ("größe",)


# a name; the file; the options; what the sentence says
REFUSED = [
    ("empty", "", {}, "no data"),
    ("a header", "a,b\n", {}, "no data: the table has no rows"),
    ("one row", "a,b\n1,2\n", {}, "1 row; at least 2"),
    ("short", "a,b\n1,2\n3\n", {}, "line 3 has 1 cells where there are 2 columns.*delimiter="),
    ("long", "a,b\n1,2\n\n3,4,5\n", {}, "line 4 has 3 cells"),
    ("commas in one column", "x\n1,5\n2,5\n", {}, "line 2 has 2 cells.*decimal=','"),
    ("two delimiters", "a,b;c,d\nx,y;z,w\n", {}, "parted at ',' and at ';'.*delimiter=';'"),
    ("two decimals", "a;b\n1,5;1.5\n2,5;2.5\n", {}, "'1.5' in column 'b'.*'1,5' in.*'a'.*decimal="),
    ("thousands", "a;b\n1,234;1\n2,345;3\n", {}, "'1,234' in column 'a'.*decimal='.' or"),
    ("word", "a,b\n1,2\n3,foo\n", {}, "column 'b' has 'foo' in data row 2 among.*drop='b'.*kinds="),
    ("wrong comma", "a;b\n1.5;2\n2,5;3\n3.5;4\n", {}, "column 'a' has '2,5' in data row 2"),
    ("kilos", 'a,w\n1,"1,234.5 kg"\n2,987 kg\n', {}, "'w' has numbers with a unit.*'1,234.5 kg'"),
    ("dollars", "a,w\n1,$12\n2,$9\n", {}, "'w' has numbers with a unit.*drop='w'"),
    ("infinite", "a,b\n1,2\n3,inf\n", {}, "column 'b' has inf in data row 2, which is infinite"),
    ("days or months", "a,d\n1,01/02/2024\n2,03/04/2024\n", {}, "'d' has dates.*day/month"),
    ("no date", "a,d\n1,2024-01-01\n2,soon\n", {"kinds": {"d": "date"}}, "column 'd' cannot be"),
    ("no number", "a,b\n1,x\n2,y\n", {"kinds": {"b": "real"}}, "column 'b' has 'x' in data row 1"),
    ("no count", "a,b\n1,1.5\n2,2\n", {"kinds": {"b": "count"}}, "'b' has 1.5 in.*count"),
    ("not positive", "a,b\n1,0\n2,2\n", {"kinds": {"b": "positive"}}, "'b' has 0 in data row 1"),
    ("no boolean", "a,b\n1,u\n2,v\n", {"kinds": {"b": "boolean"}}, "'b' is no boolean.*category"),
    ("no kind", "a,b\n1,u\n2,v\n", {"kinds": {"b": "categry"}}, "did you mean 'category'"),
    ("unknown kind", "a,b\n1,u\n2,v\n", {"kinds": {"c": "real"}}, "no column 'c'.*Columns: 'a'"),
    ("unknown column", "age,b\n1,2\n2,3\n", {"columns": "agee"}, "'agee'; did you mean 'age'"),
    ("unknown drop", "age,b\n1,2\n2,3\n", {"drop": "agee"}, "no column 'agee'; did you mean 'age'"),
    ("unknown minus", "age,b\n1,2\n2,3\n", {"columns": "-agee"}, "no column 'agee'"),
    ("unknown label", "age,b\n1,2\n2,3\n", {"label": "c"}, "no column 'c'"),
    ("unknown target", "age,b\n1,2\n2,3\n", {"target": "c"}, "no column 'c'"),
    ("twice", "a,b\n1,2\n2,3\n", {"columns": "a,b", "label": "a"}, "'a' is named twice"),
    ("two parts", "a,b\n1,2\n2,3\n", {"label": "a", "target": "a"}, "'a' is named twice"),
    ("label alone", "a\nu\nv\n", {"label": "a"}, "no column is left for x: all are label"),
    ("nothing left", "a,b\n1,\n1,\n", {}, "no column is left.*'a' is 1 in every row.*'b' is empty"),
    ("empty and asked", "a,b\n1,\n2,\n", {"columns": "b"}, "column 'b' is empty in every row"),
    ("gap in the label", "a,b\n1,u\n2,\n", {"label": "b"}, "'b', the label, is empty in"),
    ("label of floats", "a,b\n1,2.5\n2,3.5\n", {"label": "b"}, "'b' has float64.*target='b'"),
    ("target of words", "a,b\n1,u\n2,v\n", {"target": "b"}, "'b' has 'u'.*numbers are expected"),
    ("a long delimiter", "a,b\n1,2\n", {"delimiter": "::"}, "delimiter must be one sign"),
    ("a strange mark", "a,b\n1,2\n3,4\n", {"decimal": ";"}, 'decimal must be "." or ","'),
    ("no encoding", "a,b\n1,2\n3,4\n", {"encoding": "utf-9"}, "encoding='utf-9' is not known"),
    ("large", "a,b\n1,16777217\n2,16777217\n3,1\n", {}, "'b' has whole numbers up to.*drop='b'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "options", "said"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refusals_name_the_file_the_column_and_the_option(
    tmp_path: Path, text: str, options, said: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"(?s)^.*{said}") as caught:
        load(path, **options)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UsageError) as again:
        table(path, **options)
    assert str(again.value) == str(caught.value)


@pytest.mark.parametrize("raw", [bytes(range(256)), b"\x93NUMPY\xff\x00\xfe" * 9, b"\xff\xfe\x00"])
def test_bytes_that_are_no_text(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"a\.csv: it is no text in .*encoding="):
        table(path)


def test_paths_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "ages.csv").write_text("a\n1\n")
    (tmp_path / "a.xyz").write_text("a\n1\n")
    with pytest.raises(UsageError, match=r"no file.*did you mean 'ages\.csv'"):
        table(tmp_path / "age.csv")
    with pytest.raises(UsageError, match=r"no table by its suffix.*\.xlsx"):
        table(tmp_path / "a.xyz")
    with pytest.raises(UsageError, match="a table is a DataFrame of pandas or polars"):
        table(np.zeros((3, 2)))
    with pytest.raises(UsageError, match="delimiter=';' says how a text file is read"):
        table({"a": [1.5, 2.5]}, delimiter=";")


def test_what_is_asked_of_a_table_is_refused_elsewhere(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 2)))
    pd.DataFrame({"a": [1.5, 2], "b": [1.5, 2]}).to_parquet(tmp_path / "a.parquet")
    for path, options in (("a.npy", {}), ("a.parquet", {"stream": True})):
        with pytest.raises(UsageError, match="columns='a' is about the columns of a table in mem"):
            load(tmp_path / path, columns="a", **options)
    with pytest.raises(UsageError, match="drop='a' is about the columns of a table"):
        load("digits", drop="a")


def test_pandas_waits_until_there_is_a_table() -> None:
    program = "import sys, pyrovae.data, pyrovae.schema; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


# --- what is left out --------------------------------------------------------------------------

ROWS = 20
REST = {"r": [i * i + 0.5 for i in range(ROWS)]}
LEFT_OUT = {
    "0 to N-1": ({"n": list(range(ROWS))}, "column 'n' numbers the rows"),
    "1 to N": ({"n": list(range(1, ROWS + 1))}, "column 'n' numbers the rows"),
    "floats": ({"n": [float(i) for i in range(ROWS)]}, "column 'n' numbers the rows"),
    "id": ({"ID": [7 * i % 101 for i in range(ROWS)]}, "column 'ID' numbers the rows"),
    "id of text": ({"id": [f"P{i}" for i in range(ROWS)]}, "column 'id' numbers the rows"),
    "pandas": ({"Unnamed: 0": [5 * i for i in range(ROWS)]}, "'Unnamed: 0' numbers the rows"),
    "constant": ({"c": [3.5] * ROWS}, "column 'c' is 3.5 in every row"),
    "constant word": ({"c": ["x"] * ROWS}, "column 'c' is x in every row"),
    "one value": ({"c": ["x", None] * (ROWS // 2)}, "column 'c' is x in every row where"),
    "empty": ({"e": [None] * ROWS}, "column 'e' is empty: left out"),
    "marks": ({"e": ["NA", "?"] * (ROWS // 2)}, "column 'e' is empty: left out"),
    "names": ({"s": [f"name {i}" for i in range(ROWS)]}, "column 's' is text with a value of its"),
    "repeated names": (
        {"s": [f"name {i % 15}" for i in range(ROWS)]},
        "'s' is text of 15 levels in 20 rows, 'name 0'",
    ),
    "ids": ({"i": [2**40 + 3 * i for i in range(ROWS)]}, "'i' has whole numbers up to .* ids"),
    "long ids": ({"i": [2**70 + i for i in range(ROWS)]}, "column 'i' is text with a value"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_left_out_is_said_and_can_be_asked_for(case: str) -> None:
    column, said = LEFT_OUT[case]
    (name,) = column
    data = table({**column, **REST})
    assert data.schema.names == ("r",)
    (note,) = data.schema.notes
    assert re.search(said, note) and "left out" in note and "\n" not in note
    if case == "ids":
        assert table({**column, **REST}, kinds={name: "real"}).schema.names == (name, "r")
        with pytest.raises(UsageError, match="'i' has whole numbers.*drop='i'.*kinds={'i': 'real'"):
            table({**column, **REST}, columns=[name, "r"])
    elif "is empty" not in note:
        assert table({**column, **REST}, columns=[name, "r"]).schema.names == (name, "r")


def test_few_rows_in_order_are_no_index() -> None:
    assert table({"a": [1, 2, 3], "b": [2.5, 1, 7]}).schema.names == ("a", "b")
    assert table({"id": [3, 1, 1], "b": [2.5, 1, 7]}).schema.names == ("id", "b")


def test_names_that_stand_twice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,a\n1.5,2,3.5\n2.5,4,5.5\n")
    data = table(tmp_path / "a.csv")
    assert data.schema.names == ("a", "b") and data.x[:, 0].tolist() == [1.5, 2.5]
    assert "'a.1' has the name of another column, 'a'" in data.schema.notes[0]
    assert table(tmp_path / "a.csv", columns="a.1").x[:, 0].tolist() == [3.5, 5.5]
    frame = pd.DataFrame([[1.5, 2, 3.5], [2.5, 4, 5.5]], columns=["a", "b", "a"])
    assert table(frame).schema == data.schema
    with pytest.raises(UsageError, match="2 columns named 'a'"):
        data.schema.encode(frame)


def test_text_of_many_levels() -> None:
    words = [f"w{i % 1001}" for i in range(2002)]
    numbers = [float(i % 37) ** 2 for i in range(2002)]
    data = table({"w": words, "n": numbers})
    assert data.schema.names == ("n",) and "1,001 levels, more than 1,000" in data.schema.notes[0]
    with pytest.raises(UsageError, match="'w' has 1,001 levels, more than 1,000.*drop='w'"):
        table({"w": words, "n": numbers}, columns="w,n")


def test_whole_numbers_that_floats_hold_are_no_ids() -> None:
    data = table({"a": [2**30, 2**31, 3 * 2**30], "b": [1.5, 2, 4]})
    assert data.x[:, 0].tolist() == [2**30, 2**31, 3 * 2**30] and not data.schema.notes
    torch.set_default_dtype(torch.float64)
    try:
        odd = [2**40 + 1, 2**40 + 3, 2**40 + 8]
        assert table({"a": odd, "b": [1.5, 2, 4]}).x[:, 0].tolist() == odd
    finally:
        torch.set_default_dtype(torch.float32)


# --- kinds -------------------------------------------------------------------------------------


def drawn(kind: str, n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    return {
        "normal": rng.normal(40, 5, n),
        "body mass": np.round(rng.normal(4200, 800, n) / 25) * 25,
        "year": rng.integers(2007, 2010, n),
        "many years": rng.integers(1950, 2010, n),
        "poisson": rng.poisson(20, n) + 0,
        "negative binomial": rng.negative_binomial(1, 0.01, n),
        "dice": rng.integers(1, 7, n),
        "below zero": rng.integers(-50, 50, n),
        "lognormal": np.exp(rng.normal(0, 1, n)),
        "lognormal, whole": np.ceil(np.exp(rng.normal(6, 0.3, n))),
        "signed and skewed": rng.exponential(1, n) - 0.5,
        "bits": rng.integers(0, 2, n),
        "shares": rng.uniform(0.1, 0.9, n),
    }[kind]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ("normal", "real"),
        ("body mass", "real"),
        ("year", "category"),
        ("many years", "real"),
        ("negative binomial", "count"),
        ("dice", "category"),
        ("below zero", "real"),
        ("lognormal", "positive"),
        ("lognormal, whole", "positive"),
        ("signed and skewed", "real"),
        ("bits", "boolean"),
        ("shares", "real"),
    ],
)
def test_kinds_of_numbers(values: str, kind: str) -> None:
    x = drawn(values)
    data = table({"x": x, "y": drawn("normal")})
    assert data.schema.columns[0].kind == kind
    gaps = np.where(np.arange(len(x)) % 7 == 0, np.nan, x)
    assert table({"x": gaps, "y": drawn("normal")}).schema.columns[0].kind == kind


def test_about_a_column() -> None:
    (bill, mass, day) = table(
        {
            "bill": [39.1, 40.25, None, 36.7],
            "mass": [3750, 3800, 3250, 3450],
            "day": pd.to_datetime(["2024-01-05", "2024-01-03", None, "2024-02-01"]),
        }
    ).schema.columns
    assert (bill.decimals, bill.low, bill.high, bill.missing) == (2, 36.7, 40.25, 0.25)
    assert (mass.dtype, mass.decimals, mass.gaps) == ("int64", 0, False)
    assert (day.unit, day.origin, day.high) == ("D", "2024-01-03", 29.0)


# --- frames ------------------------------------------------------------------------------------

CATEGORIES = pd.Categorical(["lo", "hi", "mid", "lo"], ["lo", "mid", "hi", "top"], ordered=True)
STAMPS = ["2024-01-05 10:00:30", "2024-01-03 09:00:00", None, "2024-01-04"]
COLUMNS = {
    "int64": pd.Series([5, 7, 9, 12]),
    "int8": pd.Series([5, 7, 9, 12], dtype="int8"),
    "uint16": pd.Series([5, 7, 9, 12], dtype="uint16"),
    "float64": pd.Series([5.25, 7, np.nan, 12]),
    "float32": pd.Series([5.25, 7.1, np.nan, 12], dtype="float32"),
    "Int64": pd.Series([5, None, 9, 12], dtype="Int64"),
    "Float64": pd.Series([5.5, None, 9, 12], dtype="Float64"),
    "full Int64": pd.Series([5, 8, 9, 12], dtype="Int64"),
    "bool": pd.Series([True, False, True, True]),
    "boolean": pd.Series([True, None, False, True], dtype="boolean"),
    "text": pd.Series(["u", "v", np.nan, "u"]),
    "string": pd.Series(["u", "v", None, "u"], dtype="string"),
    "yes": pd.Series(["yes", "no", np.nan, "yes"]),
    "category": pd.Series(["u", "v", None, "u"], dtype="category"),
    "ordered": pd.Series(CATEGORIES),
    "numbered": pd.Series(pd.Categorical([30, 10, 10, 20], [30, 20, 10])),
    "says none": pd.Series(pd.Categorical(["none", "all", "none", "all"])),
    "days": pd.to_datetime(pd.Series(["2024-01-05", "2024-01-03", None, "2024-02-01"])),
    "seconds": pd.to_datetime(pd.Series(STAMPS), format="mixed"),
    "zone": pd.to_datetime(pd.Series(STAMPS), format="mixed").dt.tz_localize("Europe/Berlin"),
    "years": pd.Series([2007, 2009] * 4),
    "signs": pd.Series([0, 1, 1, 0], dtype="int64"),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_frames_come_back(name: str) -> None:
    column = COLUMNS[name]
    frame = pd.DataFrame({name: column, "other": np.arange(len(column)) ** 2 + 0.5})
    frame.index = [f"row {i}" for i in range(len(frame))]
    data = table(frame, columns=[name, "other"])
    schema = Schema.from_dict(data.schema.to_dict())
    assert schema == data.schema
    back = schema.decode(schema.encode(frame), frame.index)
    pd.testing.assert_frame_equal(back, frame)
    shuffled = frame[["other", name]].assign(extra=1)
    torch.testing.assert_close(schema.encode(shuffled), data.x, equal_nan=True)


@pytest.mark.parametrize("name", ["int64", "int8", "uint16", "bool"])
def test_gaps_in_what_had_none_are_nullable(name: str) -> None:
    frame = pd.DataFrame({name: COLUMNS[name], "other": [0.5, 1, 4, 9]})
    data = table(frame, columns=[name, "other"])
    x = data.x.clone()
    x[1, 0] = N
    back = data.schema.decode(x)
    nullable = {"int64": "Int64", "int8": "Int8", "uint16": "UInt16", "bool": "boolean"}[name]
    assert str(back[name].dtype) == nullable and back[name].isna().tolist() == [0, 1, 0, 0]


def test_what_a_model_draws_becomes_values_of_the_columns() -> None:
    columns = (
        Column("r", "real", "float64", decimals=1),
        Column("m", "real", "int64", decimals=0),
        Column("n", "count", "int64", decimals=0),
        Column("p", "positive", "float64", decimals=1),
        Column("s", "category", "str", ("u", "v")),
        Column("b", "boolean", "bool", (False, True)),
        Column("d", "date", "datetime64[us]", unit="D", origin="2024-01-03"),
        Column("u", "count", "uint8", decimals=0),
    )
    x = torch.tensor(
        [[1.26, 3700.4, -0.7, -3.0, 1.7, 0.2, 1.6, 300.0], [-1, -2, 3, 2, -1, 9, -3, 4]]
    )
    frame = Schema(columns).decode(x)
    assert frame.iloc[0].tolist() == [
        *(1.3, 3700, 0, 0.1, "v", False, pd.Timestamp("2024-01-05"), 255)
    ]
    assert frame.iloc[1].tolist() == [-1, -2, 3, 2, "u", True, pd.Timestamp("2023-12-31"), 4]
    assert str(frame.dtypes["m"]) == "int64" and str(frame.dtypes["b"]) == "bool"
    with pytest.raises(UsageError, match=r"\[2, 3\] are no table of the 8 columns r, m"):
        Schema(columns).decode(x[:, :3])


def test_frames_of_python_objects() -> None:
    data = table(
        {
            "d": [datetime.date(2024, 1, 3), None, datetime.date(2024, 1, 5)],
            "e": [decimal.Decimal("1.5"), None, decimal.Decimal("2.5")],
            "m": np.ma.masked_array([1.5, 999.0, 3.0], [False, True, False]),
            "t": torch.tensor([1.5, 2.0, 7.0]),
            "n": [1, pd.NA, 7],
        }
    )
    expected = [[0, 1.5, 1.5, 1.5, 1], [N, N, N, 2, N], [2, 2.5, 3, 7, 7]]
    torch.testing.assert_close(data.x, torch.tensor(expected), equal_nan=True)
    assert data.schema.columns[0].kind == "date"


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([[1, 2], [3, 4]], r"column 'a' holds list \[1, 2\] in data row 1"),
        ([1.5, {"b": 1}], r"column 'a' holds dict .* in data row 2.*drop='a'"),
        ([1 + 2j, 3j], "column 'a' holds complex numbers"),
        ([True, 2.5], "column 'a' holds True or False among numbers"),
        (pd.to_timedelta(["1D", "2D"]), r"column 'a' holds time spans.*total_seconds"),
        (pd.period_range("2024-01", periods=2, freq="M"), r"column 'a' holds period"),
        ([b"u", b"v"], "column 'a' holds bytes b'u' in data row 1"),
        ([1.5, np.inf], "column 'a' has inf in data row 2, which is infinite"),
    ],
)
def test_cells_that_are_no_values(cells, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        table({"a": cells, "b": [1.5, 2.5]})
    assert table({"a": cells, "b": [1.5, 2.5]}, drop="a").schema.names == ("b",)


def test_columns_of_unequal_lengths() -> None:
    with pytest.raises(UsageError, match="as many values as the others"):
        table({"a": [1, 2], "b": [1, 2, 3]})
    with pytest.raises(UsageError, match="no data: the table has no rows"):
        table(pd.DataFrame({"a": []}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mass": None}, "no column 'mass'.*Columns: 'bill'"),
        ({"sex": ["female", "man", "male"]}, "'sex' has 'man' in data row 2.*'male'"),
        ({"bill": ["1.5", "x", "2"]}, "'bill' has 'x' in data row 2"),
        ({"n": [1, -2, 3]}, "'n' has -2.0 in data row 2, which is no count value"),
        ({"bill": [1.5, np.inf, 2]}, "'bill' has inf in data row 2, which is infinite"),
        ({"day": ["2024-01-01", "soon", None]}, "column 'day' cannot be read as dates"),
        ({"day": [1.5, 2.5, 3.5]}, "column 'day' has 1.5 in data row 1, where dates are expected"),
        ({"bill": [[1], [2], [3]]}, r"'bill' holds list \[1\]"),
    ],
)
def test_other_tables_of_a_schema_are_checked(change, said: str) -> None:
    days = pd.to_datetime(["2024-01-01", "2024-01-03", "2024-01-07"])
    frame = {"bill": [39.1, 40, 38.5], "mass": [3750, 3800, 3250], "day": days}
    frame |= {"sex": ["female", "male", "male"], "n": [0, 3, 20]}
    schema = table(frame).schema
    assert [column.kind for column in schema.columns] == [
        *("real", "real", "date", "category", "count")
    ]
    other = {name: column for name, column in {**frame, **change}.items() if column is not None}
    with pytest.raises(UsageError, match=said):
        schema.encode(other)


def test_polars() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(
        {
            "mass": [3750, None, 3250, 3450],
            "sex": ["male", None, "female", "male"],
            "ok": [True, False, None, True],
            "day": [datetime.date(2024, 1, 3), datetime.date(2024, 1, 5), None, None],
            "size": polars.Series(
                ["mid", "lo", "hi", "lo"], dtype=polars.Enum(["lo", "mid", "hi"])
            ),
        }
    )
    data = table(frame)
    assert [c.kind for c in data.schema.columns] == [
        "real",
        "category",
        "boolean",
        "date",
        "category",
    ]
    expected = [[3750, 1, 1, 0, 1], [N, N, 0, 2, 0], [3250, 0, N, N, 2], [3450, 1, 1, N, 0]]
    torch.testing.assert_close(data.x, torch.tensor(expected), equal_nan=True)
    assert data.schema.columns[0].dtype == "Int64"
    torch.testing.assert_close(data.schema.encode(frame), data.x, equal_nan=True)


# --- labels and targets ------------------------------------------------------------------------


def test_labels_and_targets(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,kind,y,b\n1.5,dog,3,2\n2,cat,4.5,3\n3,dog,,5\n4,cat,1,7\n")
    data = table(path, label="kind", target="y")
    assert data.schema.names == ("a", "b") and data.schema.classes == ("cat", "dog")
    assert data.labels.tolist() == [1, 0, 1, 0] and data.schema.label == "kind"
    x, y = data[:]
    torch.testing.assert_close(y, torch.tensor([3, 4.5, N, 1]), equal_nan=True)
    assert data.schema.target.name == "y"
    held = data.split(2)[1]
    assert held.schema is data.schema and len(held.tensors) == 2
    splits = load(path, label="kind", target="y")
    assert splits.classes == ("cat", "dog") and splits.schema == data.schema
    again = table({"a": [1.5, 2], "b": [1, 2], "kind": ["dog", "dog"]}, schema=data.schema)
    assert again.labels.tolist() == [1, 1] and len(again.tensors) == 1
    with pytest.raises(UsageError, match="'kind' has 'cow' in data row 2.*'cat', 'dog'"):
        table({"a": [1.5, 2], "b": [1, 2], "kind": ["dog", "cow"]}, schema=data.schema)


def test_labels_keep_the_order_of_a_categorical() -> None:
    data = table(pd.DataFrame({"size": CATEGORIES, "b": [1.5, 2.0, 4, 7]}), label="size")
    assert data.schema.classes == ("lo", "mid", "hi") and data.labels.tolist() == [0, 2, 1, 0]


# --- files of other formats, and back ----------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Mismatched null-like values:FutureWarning")  # of pandas 2
def test_parquet_keeps_dtypes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    names = ["int8", "boolean", "text", "ordered", "seconds", "zone", "Int64", "float32"]
    frame = pd.DataFrame({name: COLUMNS[name] for name in names})
    frame.to_parquet(tmp_path / "a.parquet")
    splits = load(tmp_path / "a.parquet")
    assert splits.schema.names == tuple(names)
    x = table(tmp_path / "a.parquet").x
    back = splits.schema.decode(x)
    pd.testing.assert_frame_equal(back, pd.read_parquet(tmp_path / "a.parquet"))
    write(back, tmp_path / "b.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "b.parquet"), back)


def test_excel(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame(
        {
            "mass": [3750.5, None, 3250, 3450],
            "sex": ["male", "n/a", "female", "male"],
            "day": pd.to_datetime(["2024-01-03", "2024-01-05", None, None]),
            "ok": [True, False, True, True],
        }
    )
    with pd.ExcelWriter(tmp_path / "a.xlsx") as book:
        frame.to_excel(book, index=False, sheet_name="birds")
        frame.to_excel(book, index=False, sheet_name="more")
    splits = load(tmp_path / "a.xlsx")
    assert [c.kind for c in splits.schema.columns] == ["real", "category", "date", "boolean"]
    assert "the first of its 2 sheets, 'birds'" in splits.schema.notes[0]
    x = table(tmp_path / "a.xlsx").x
    expected = [[3750.5, 1, 0, 1], [N, N, 2, 0], [3250, 0, N, 1], [3450, 1, N, 1]]
    torch.testing.assert_close(x, torch.tensor(expected), equal_nan=True)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_penguins_come_back(tmp_path: Path, suffix: str) -> None:
    frame = pd.read_csv(PENGUINS)
    data = table(PENGUINS)
    assert len(data) == 344 and not data.schema.notes
    assert [column.kind for column in data.schema.columns] == [
        *("category", "category", "real", "real", "real", "real", "category", "category")
    ]
    back = data.schema.decode(data.x)
    pd.testing.assert_frame_equal(back, frame)
    write(back, tmp_path / f"b{suffix}")
    text = (tmp_path / f"b{suffix}").read_text()
    assert text.replace("\t", ",") == PENGUINS.read_text()
    again = table(tmp_path / f"b{suffix}", schema=data.schema)
    torch.testing.assert_close(again.x, data.x, equal_nan=True)
    drawn = data.schema.decode(data.x[~data.x.isnan().any(1)])  # as samples are: without gaps
    write(drawn, tmp_path / "c.csv")
    assert pd.read_csv(tmp_path / "c.csv").dtypes.equals(frame.dtypes)


def test_penguins_in_words() -> None:
    shown = str(table(PENGUINS, label="species").schema).splitlines()
    assert shown[0].split() == ["column", "kind", "values"] and len(shown) == 9
    words = [" ".join(line.split()) for line in shown]
    assert words[5] == "body_mass_g real 2725 to 6150, whole 0.6 % missing"
    assert words[6] == "sex category 2 levels: Female, Male 3.2 % missing"
    assert words[8] == "species label 3 classes: Adelie, Chinstrap, Gentoo"


def test_tables_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    write(frame, tmp_path / "new" / "a.csv")
    assert (tmp_path / "new" / "a.csv").read_text() == ",a\nx,1\ny,2\n"
    with pytest.raises(UsageError, match=r"written as .csv .tsv .parquet, not as 'a\.npy'"):
        write(frame, tmp_path / "a.npy")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        write(frame, tmp_path / "file" / "a.csv")


TEXT = st.text("abcdefgh", min_size=1, max_size=3).filter(
    lambda word: word not in ("na", "nan", "f", "t", "n", "y")
)
DAYS = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_frame_comes_back(data) -> None:
    rows = data.draw(st.integers(2, 8))

    def column(values, gap=None):
        cells = data.draw(st.lists(values, min_size=rows, max_size=rows))
        holes = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
        holes[0] = False
        return [c if gap is None or not h else gap for c, h in zip(cells, holes, strict=True)]

    frame = pd.DataFrame(
        {
            "whole": pd.Series(column(st.integers(-1000, 2**24)), dtype="int64"),
            "gappy": pd.Series(column(st.integers(0, 2**20), pd.NA), dtype="Int64"),
            "tenths": pd.Series(column(st.integers(-9999, 9999), N)) / 10,
            "words": pd.Series(column(TEXT)),
            "levels": pd.Series(pd.Categorical(column(st.sampled_from("uvw"), N), list("wvux"))),
            "truth": pd.Series(column(st.booleans(), pd.NA), dtype="boolean"),
            "days": pd.Series(column(DAYS, pd.NaT)).dt.normalize(),
        }
    )
    read = table(frame, columns=list(frame.columns))
    pd.testing.assert_frame_equal(read.schema.decode(read.x), frame, rtol=0, atol=1e-9)
    assert Schema.from_dict(read.schema.to_dict()) == read.schema


@pytest.mark.parametrize("place", ["XFD1048576", "A1000000000"])
def test_a_cell_that_is_far_off_takes_no_memory(tmp_path: Path, place: str) -> None:
    """The empty ones before it would be thousands of millions."""
    row = place.lstrip("AXFD")
    sheet = f'<worksheet><sheetData><row r="{row}"><c r="{place}"><v>1</v></c></row></sheetData>'
    with zipfile.ZipFile(tmp_path / "far.xlsx", "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", sheet + "</worksheet>")
    with pytest.raises(UsageError, match="leave out the cells that are far off"):
        table(tmp_path / "far.xlsx")
