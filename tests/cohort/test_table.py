"""The cohort table: real excerpts, every kind of bad value, and the promise that no row is lost without a line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milsurv.cohort.cases import Cohort
from milsurv.cohort.table import read_cohort
from milsurv.config.cohort import TableCohort
from milsurv.errors import CohortError

EXCERPTS = Path(__file__).parents[1] / "data" / "cohorts"
TCGA = {"time": "survival_months", "censorship": "censorship"}
HEADER = "case_id,slide_id,time,event"


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    return folder


def read(
    table: Path, slides: Path, true_risk: str | None = None, attributes: tuple[str, ...] = (), **settings: Any
) -> Cohort:
    config = TableCohort(table=table, slides=slides, **settings)
    return read_cohort(config, true_risk=true_risk, attributes=attributes)


def write(slides: Path, text: str, name: str = "cohort.csv") -> Path:
    table = slides.parent / name
    table.write_bytes(text.encode())
    return table


def problems(table: Path, slides: Path, **settings: Any) -> list[str]:
    with pytest.raises(CohortError) as caught:
        read(table, slides, **settings)
    return list(caught.value.problems)


def summary(cohort: Cohort) -> list[tuple[str, float, int, list[str]]]:
    return [(case.case_id, case.time, case.event, [s.slide_id for s in case.slides]) for case in cohort.cases]


def test_real_table_gives_the_cases_that_pandas_counts(slides: Path) -> None:
    table = EXCERPTS / "luad_excerpt.csv"
    frame = pd.read_csv(table)
    expected = frame.groupby("case_id", sort=False).agg(
        time=("survival_months", "first"), censored=("censorship", "first"), slides=("slide_id", list)
    )
    for slide_id in frame.slide_id:
        (slides / slide_id).touch()

    cohort = read(table, slides, columns=TCGA, endpoint="DSS")

    assert summary(cohort) == [
        (case_id, row.time, int(1 - row.censored), [slide.removesuffix(".svs") for slide in row.slides])
        for case_id, row in expected.iterrows()
    ]
    assert all(slide.path == slides / f"{slide.slide_id}.svs" for c in cohort.cases for slide in c.slides)
    assert (cohort.time_unit, cohort.endpoint, cohort.dropped, cohort.warnings) == ("months", "DSS", (), ())


def test_real_table_with_zero_months_names_the_rows(slides: Path) -> None:
    table = EXCERPTS / "coad_excerpt.csv"
    settings: dict[str, Any] = {"columns": TCGA, "case_pattern": "^(.{12})"}

    found = problems(table, slides, **settings)

    assert found == [
        f"{table}: row {row} (case {case}): survival_months is 0; allowed: a number greater than 0; "
        "correct it, or exclude such rows with cohort.on_invalid: drop"
        for row, case in ((20, "TCGA-G4-6302"), (21, "TCGA-AA-A022"), (22, "TCGA-G4-6626"))
    ]
    cohort = read(table, slides, on_invalid="drop", **settings)
    assert cohort.dropped[0] == (
        "row 20 (case TCGA-G4-6302): excluded, survival_months is 0; nothing is left of the case"
    )
    assert len(cohort.dropped) == 3
    assert len(cohort.cases) == 22
    assert {len(case.slides) for case in cohort.cases} == {1, 2}


def test_slide_level_tcga_barcodes_as_cases_are_warned_of(slides: Path) -> None:
    cohort = read(EXCERPTS / "coad_excerpt.csv", slides, columns=TCGA, on_invalid="drop")

    assert len(cohort.cases) == 26
    assert cohort.warnings[0] == (
        "4 TCGA patients have several cases each, which may be on both sides of a split: TCGA-A6-A5ZU, "
        "TCGA-4N-A93T, TCGA-NH-A6GC, …; make them one case each with cohort.case_pattern: '^(.{12})'"
    )


def test_a_new_users_config_is_told_which_columns_to_name(slides: Path) -> None:
    table = EXCERPTS / "luad_excerpt.csv"

    assert problems(table, slides) == [
        f"{table}: no column 'time' (cohort.columns.time: perhaps survival_months), no column 'event' "
        "(cohort.columns.event: perhaps cohort.columns.censorship: censorship, if 1 means censored there); "
        "the columns are: case_id, slide_id, oncotree_code, site, age, is_female, survival_months, censorship; "
        "set the right ones in cohort.columns"
    ]


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("case_id,slide_id,Time,event", "cohort.columns.time: did you mean Time?"),
        ("case_id,time,event", "cohort.columns.slide: null if the table has one row per case"),
        ("case_id;slide_id;time;event", "it seems to be separated by ';'"),
    ],
)
def test_a_missing_column_has_a_hint(slides: Path, header: str, hint: str) -> None:
    (problem,) = problems(write(slides, f"{header}\nA,a,1,1\n"), slides)
    assert hint in problem


@pytest.mark.parametrize("form", ["csv", "bom", "crlf", "spaces", "quoted", "tsv", "txt", "parquet"])
def test_every_form_of_a_table_reads_the_same(slides: Path, form: str) -> None:
    rows = [("007", "s1", "10.5", "1.0"), ("A, b", "s2", "3", "0"), ("007", "s3.svs", "10.5", "TRUE")]
    plain = f"{HEADER}\n007,s1,10.5,1.0\n" + '"A, b",s2,3,0\n007,s3.svs,10.5,TRUE\n'
    tabbed = plain.replace('"A, b"', "A; b").replace(",", "\t").replace(";", ",")
    texts = {
        "csv": plain,
        "bom": "\ufeff" + plain,
        "crlf": plain.replace("\n", "\r\n") + ",,,\r\n\r\n",
        "spaces": ' case_id , slide_id,time ,event\n 007 ,s1, 10.5,1.0\n"A, b" ,s2 ,3,0\n007, s3.svs,10.5, TRUE\n',
        "quoted": "\n".join('"' + '","'.join(row) + '"' for row in (HEADER.split(","), *rows)),
        "tsv": tabbed,
        "txt": tabbed,
    }
    if form == "parquet":
        table = slides.parent / "cohort.parquet"
        pd.DataFrame(rows, columns=HEADER.split(",")).set_index("case_id").to_parquet(table)
    else:
        table = write(slides, texts[form], f"cohort.{form if form in ('tsv', 'txt') else 'csv'}")

    assert summary(read(table, slides)) == [("007", 10.5, 1, ["s1", "s3"]), ("A, b", 3.0, 0, ["s2"])]


def test_parquet_types_and_row_numbers(slides: Path) -> None:
    table = slides.parent / "cohort.parquet"
    frame = pd.DataFrame(
        {
            "case_id": [7, 8, 9],
            "slide_id": ["a", "b", None],
            "time": [1.5, float("nan"), 2],
            "event": [True] * 3,
        }
    )
    frame.to_parquet(table)

    assert [line.split(";")[0] for line in problems(table, slides)] == [
        f"{table}: row 3 (case 8): time is empty",
        f"{table}: row 4 (case 9): slide_id is empty",
    ]
    assert summary(read(table, slides, on_invalid="drop")) == [("7", 1.5, 1, ["a"])]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (",s,1,1", "row 3: case_id is empty; allowed: an id"),
        ("B,,1,1", "row 3 (case B): slide_id is empty; allowed: an id"),
        ("B,s,,1", "row 3 (case B): time is empty; allowed: a number greater than 0"),
        (
            "B,s,NaN,1",
            "row 3 (case B): time is 'NaN', which counts as missing; allowed: a number greater than 0",
        ),
        ("B,s,0,1", "row 3 (case B): time is 0; allowed: a number greater than 0"),
        ("B,s,-2.5,1", "row 3 (case B): time is -2.5; allowed: a number greater than 0"),
        ("B,s,inf,1", "row 3 (case B): time is inf; allowed: a finite number"),
        ("B,s,1_0,1", "row 3 (case B): time is '1_0'; allowed: a number;"),
        ('B,s,"2,5",1', "row 3 (case B): time is '2,5'; allowed: a number, with a point before the decimals"),
        ("B,s,1,", "row 3 (case B): event is empty; allowed: 1 (event observed) or 0 (censored)"),
        ("B,a,1,1", "rows 2, 3 (cases A, B): slide a is listed under 2 cases; a slide belongs to one case"),
        ("A,a.svs,5,1", "row 3 (case A): slide a is already in row 2; one row is allowed"),
        ("A,s,6,1", "rows 2, 3 (case A): rows of one case disagree on time (5, 6); all rows of a case"),
        ("A,s,5,0", "rows 2, 3 (case A): rows of one case disagree on event (1, 0); all rows of a case"),
        ("B,../s,1,1", "row 3 (case B): slide_id: slide id '../s' contains a path separator"),
        ("B,..,1,1", "row 3 (case B): slide_id: slide id '..' cannot be a file name"),
        ("B,x\x07y,1,1", "row 3 (case B): slide_id: 'x\\x07y' contains a control character"),
        ("B,s,1", "row 3: has 3 values, but the header has 4 columns"),
        ("B,s,1,1,x", "row 3: has 5 values, but the header has 4 columns"),
    ],
)
def test_bad_row(slides: Path, row: str, what: str) -> None:
    table = write(slides, f"{HEADER}\nA,a,5,1\n{row}\nY,y,9,1\nZ,z,9,0\n")

    (problem,) = problems(table, slides)

    assert problem.startswith(f"{table}: {what}")
    assert problem.endswith("cohort.on_invalid: drop")
    cohort = read(table, slides, on_invalid="drop")
    assert len(cohort.dropped) == 1
    assert cohort.dropped[0].startswith(what.split(":")[0])
    assert "Z" in [case.case_id for case in cohort.cases]


def test_everything_wrong_is_told_at_once(slides: Path) -> None:
    table = write(slides, f"{HEADER}\nA,a,0,Dead\nB,b,1,1\nB,b2,2,1\nC,c,3,1\n")

    found = problems(table, slides / "gone")

    assert [line.removeprefix(f"{table}: ").split(";")[0] for line in found] == [
        "column event contains '1' (3 rows), 'Dead' (row 2)",
        "row 2 (case A): time is 0",
        "rows 3, 4 (case B): rows of one case disagree on time (1, 2)",
        f"{slides / 'gone'}: folder not found",
    ]


def test_more_than_twenty_problems_are_counted(slides: Path) -> None:
    table = write(slides, f"{HEADER}\nA,a,5,1\n" + "".join(f"C{n},s{n},0,1\n" for n in range(23)))

    found = problems(table, slides)

    assert len(found) == 21
    assert found[19].startswith(f"{table}: row 22 (case C19)")
    assert found[20] == f"{table}: and 3 more such problems, in 3 rows"


@pytest.mark.parametrize("on_invalid", ["error", "drop"])
def test_a_table_without_a_valid_case_is_an_error(slides: Path, on_invalid: str) -> None:
    assert problems(write(slides, f"{HEADER}\n"), slides, on_invalid=on_invalid) == [
        f"{slides.parent / 'cohort.csv'}: none of its 0 rows is a valid case; "
        "the table needs one row per slide below the header"
    ]
    found = problems(write(slides, f"{HEADER}\nA,a,0,1\nB,b,0,1\n"), slides, on_invalid=on_invalid)
    assert "row 2 (case A): time is 0" in found[0]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("missing.csv", None, "file not found"),
        ("cohort.doc", b"", "is not a supported table; allowed: .csv, .tsv, .txt, .parquet"),
        ("cohort.xlsx", b"PK", "is an Excel workbook, which is not supported; save the sheet as CSV UTF-8"),
        ("cohort.csv", b"PK\x03\x04\x14", "is an Excel workbook"),
        ("cohort.csv", f"{HEADER}\nA,a,5,1\n".encode("utf-16"), "is UTF-16 text; save it again"),
        ("cohort.csv", f"{HEADER}\nA,a,5,1\n".encode("utf-16-le"), "contains NUL bytes, perhaps UTF-16"),
        ("cohort.csv", b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "is HTML or XML, not a table"),
        ("cohort.tsv", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("cohort.csv", b"\x1f\x8b\x08", "is compressed with gzip"),
        ("cohort.parquet", b"PAR", "not a readable Parquet file"),
        ("cohort.csv", b"", "the file is empty"),
        ("cohort.csv", "é".encode("latin-1"), "not UTF-8 text (byte 0)"),
        ("cohort.csv", b"case_id,time,time\n", "column 'time' appears twice in the header"),
        (
            "cohort.csv",
            b'case_id,note\nA,x\nB,"5 cm\nC,y\n',
            "row 3: unexpected end of data; look for a quotation",
        ),
        ("cohort.csv", b'case_id,note\nA,"5 cm\nB,"fine"\n', "row 2: ',' expected after '\"'"),
    ],
)
def test_a_file_that_is_no_table(slides: Path, name: str, content: bytes | None, what: str) -> None:
    table = slides.parent / name
    if content is not None:
        table.write_bytes(content)

    (problem,) = problems(table, slides)

    assert problem.startswith(f"{table}: {what}")


def test_row_numbers_count_lines_of_the_file(slides: Path) -> None:
    table = write(slides, f'{HEADER},note\n\nA,a,5,1,\nB,b,1,1,"two\nlines"\n,,,,\nC,c,0,1,\n')
    assert problems(table, slides)[0].startswith(f"{table}: row 7 (case C)")


def test_true_risk_is_a_number_of_the_case(slides: Path) -> None:
    table = write(slides, f"{HEADER},risk\nA,a,5,1,-0.5\nA,a2,5,1,-0.5\nB,b,5,1,2\n")
    assert [case.true_risk for case in read(table, slides, true_risk="risk").cases] == [-0.5, 2.0]
    assert [case.true_risk for case in read(table, slides).cases] == [None, None]

    table = write(slides, f"{HEADER},risk\nA,a,5,1,1\nA,a2,5,1,2\nB,b,5,1,\n")
    with pytest.raises(CohortError, match=r"disagree on risk \(1, 2\)") as caught:
        read(table, slides, true_risk="risk")
    assert "risk is empty; allowed: a number" in caught.value.problems[1]


@pytest.mark.parametrize(("mpp", "value"), [("0.2527", 0.2527), ("", None), ("NA", None)])
def test_mpp_column(slides: Path, mpp: str, value: float | None) -> None:
    table = write(slides, f"{HEADER},mpp\nA,a,5,1,{mpp}\n")
    assert read(table, slides, columns={"mpp": "mpp"}).cases[0].slides[0].mpp == value


@pytest.mark.parametrize("mpp", ["40", "0", "-0.25", "inf", "20x"])
def test_bad_mpp(slides: Path, mpp: str) -> None:
    table = write(slides, f"{HEADER},mpp\nA,a,5,1,{mpp}\nB,b,5,1,0.5\n")
    (problem,) = problems(table, slides, columns={"mpp": "mpp"})
    assert problem.startswith(f"{table}: row 2 (case A): mpp is ")


def test_patterns_cut_ids_and_a_value_that_does_not_match_is_named(slides: Path) -> None:
    (slides / "scan_12_B3.svs").touch()
    table = write(slides, f"{HEADER}\nP-1-x,image_12_B3_v2,5,1\nQ1,image_13_B3,5,1\nP-2-x,C9,5,1\n")
    patterns: dict[str, Any] = {"case_pattern": r"^(P-\d)", "slide_pattern": r"_(\d+_B\d)"}

    assert problems(table, slides, **patterns) == [
        f"{table}: row 3 (case Q1): case_id: 'Q1' does not match cohort.case_pattern '^(P-\\\\d)'; "
        "correct the value or the pattern, or exclude such rows with cohort.on_invalid: drop",
        f"{table}: row 4 (case P-2): slide_id: 'C9' does not match cohort.slide_pattern '_(\\\\d+_B\\\\d)'; "
        "correct the value or the pattern, or exclude such rows with cohort.on_invalid: drop",
    ]
    (case,) = read(table, slides, on_invalid="drop", **patterns).cases
    assert (case.case_id, case.slides[0].slide_id) == ("P-1", "12_B3")
    assert case.slides[0].path == slides / "scan_12_B3.svs"


def test_one_row_per_case_finds_slides_by_case_pattern(slides: Path) -> None:
    for name in ("A-1.svs", "A-2.svs", "B-1.svs", "X-1.svs", "notes.tif"):
        (slides / name).touch()
    table = write(slides, "case_id,time,event\nA-patient,5,1\nB,24,0\nC,3,0\nB,24,0\n")
    settings: dict[str, Any] = {"columns": {"slide": None}, "case_pattern": "^([A-Z])(?:-|$)"}

    found = problems(table, slides, **settings)
    assert found == [
        f"{table}: row 5 (case B): the case is already in row 3; one row is allowed; remove one, or exclude "
        "the later one with cohort.on_invalid: drop"
    ]
    cohort = read(table, slides, on_invalid="drop", **settings)
    assert summary(cohort) == [("A", 5.0, 1, ["A-1", "A-2"]), ("B", 24.0, 0, ["B-1"]), ("C", 3.0, 0, [])]
    assert cohort.warnings == (
        f"1 of 3 cases have no slide file in {slides}: C",
        f"2 slide files do not belong to any case of the cohort, in {slides}: X-1.svs, notes.tif",
    )


def test_one_row_per_case_needs_a_case_pattern(slides: Path) -> None:
    table = write(slides, "case_id,time,event\nA,5,1\nB,0,1\n")
    found = problems(table, slides, columns={"slide": None})
    assert "row 3 (case B): time is 0" in found[0]
    assert "set cohort.case_pattern" in found[1]


KEPT = ("DEAD,dead,1,1", "ALIVE,alive,1,0")
values = st.tuples(
    st.sampled_from(["A", "B", "C", "D", ""]),
    st.sampled_from(["s1", "s2", "s3", "s4", "s5", "s6", "../x", ""]),
    st.sampled_from(["1", "1", "1", "2", "0", "nan"]),
    st.sampled_from(["0", "0", "0", "1", "NA"]),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(values, min_size=1, max_size=12))
def test_every_row_is_kept_or_named_in_dropped(slides: Path, rows: list[tuple[str, ...]]) -> None:
    table = write(slides, "\n".join([HEADER, *KEPT, *(",".join(row) for row in rows)]))

    cohort = read(table, slides, on_invalid="drop")

    named = set()
    for line in cohort.dropped:
        match = re.match(r"rows? ([\d, ]+?)(?: \(|:)", line)
        assert match
        named |= {int(number) for number in match[1].split(", ")}
    kept = [
        (case.case_id, slide.slide_id, f"{case.time:g}", str(case.event))
        for case in cohort.cases
        for slide in case.slides
    ]
    expected = [row for number, row in enumerate(rows, start=4) if number not in named]
    assert sorted(kept) == sorted([*(tuple(row.split(",")) for row in KEPT), *expected])
    slide_ids = [slide_id for _, slide_id, _, _ in kept]
    assert len(set(slide_ids)) == len(slide_ids)
    kept_cases = {case.case_id for case in cohort.cases}
    for case_id in {row[0] for row in rows if row[0]} - kept_cases:
        assert any(
            re.search(rf"\((?:cases? ).*\b{case_id}\b", line) and "nothing is left of" in line
            for line in cohort.dropped
        )
    if cohort.dropped:
        with pytest.raises(CohortError):
            read(table, slides)
    else:
        assert read(table, slides) == cohort


def test_cases_keep_the_text_of_the_columns_that_are_asked_for(slides: Path) -> None:
    table = write(slides, f"{HEADER},stage,age,site\nA,a1,5,1,II,07,x\nA,a2,5,1,II,07,y\nB,b,4,0,NA,,z\n")
    cohort = read(table, slides, attributes=("stage", "age"))
    assert [case.attributes for case in cohort.cases] == [
        {"stage": "II", "age": "07"},
        {"stage": "", "age": ""},
    ]
    assert all(case.attributes == {} for case in read(table, slides).cases)


def test_rows_of_a_case_must_agree_in_the_columns_that_are_asked_for(slides: Path) -> None:
    table = write(slides, f"{HEADER},stage\nA,a1,5,1,II\nA,a2,5,1,\nB,b,4,0,I\n")
    (problem,) = problems(table, slides, attributes=("stage",))
    assert problem == (
        f"{table}: rows 2, 3 (case A): rows of one case disagree on stage (II, empty); all rows of a case must agree; "
        "correct them, or exclude the case with cohort.on_invalid: drop"
    )
    assert len(read(table, slides).cases) == 2
    table = write(slides, f"{table.read_text()}C,c,3,1,I\n")
    dropped = read(table, slides, attributes=("stage",), on_invalid="drop")
    assert [case.case_id for case in dropped.cases] == ["B", "C"]


def test_a_column_that_is_asked_for_and_missing_is_named(slides: Path) -> None:
    table = write(slides, f"{HEADER},stage\nA,a1,5,1,II\n")
    (problem,) = problems(table, slides, attributes=("Stage", "sex"))
    assert problem == (
        f"{table}: no column 'Stage' (did you mean stage?), no column 'sex'; the columns are: case_id, slide_id, "
        "time, event, stage; correct evaluation.subgroups or evaluation.clinical"
    )
