"""Reading recorded arrivals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadgen.traces import Trace, read_trace
from partywall.errors import InvalidInput


def _file(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(text.encode())
    return path


def test_seconds_and_model(tmp_path: Path) -> None:
    trace = read_trace(_file(tmp_path, "seconds,model\n0.5,m1\n0.75,m2\n\n1.5,m1\n"))
    assert trace.times_s.tolist() == [0.5, 0.75, 1.5]
    assert trace.models == ("m1", "m2", "m1")
    assert trace.only("m1").times_s.tolist() == [0.5, 1.5]


def test_timestamps_with_crlf_and_seven_digits(tmp_path: Path) -> None:
    rows = ["TIMESTAMP,ContextTokens", "2023-11-16 23:59:59.9799601,1", "2023-11-17 00:00:00.0319600,2"]
    trace = read_trace(_file(tmp_path, "\r\n".join(rows) + "\r\n"))
    assert trace.times_s == pytest.approx([0.0, 0.0519999], abs=1e-9)
    assert trace.models == ()


@pytest.mark.parametrize("text", ["2023-11-16T18:17:03", "2023-11-16 18:17:03+00:00", "2023-11-16 18:17:03.5Z"])
def test_other_spellings_of_a_time(tmp_path: Path, text: str) -> None:
    assert len(read_trace(_file(tmp_path, f"TIMESTAMP\n{text}\n{text}\n"))) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,model\n1,a\n", "line 1: the header must name"),
        ("", "line 1: the header"),
        ("seconds\n", "no arrivals"),
        ("seconds\n1\n1x\n", "line 3, column seconds: must be a number"),
        ("seconds\n-1\n", "line 2, column seconds"),
        ("seconds\nnan\n", "line 2, column seconds"),
        ("seconds,model\n1\n", "line 2, column model: is missing"),
        ("seconds\n2\n1\n", "line 3: time goes back"),
        ("TIMESTAMP\n2023-13-16 18:17:03\n", "line 2, column TIMESTAMP: must be a time"),
        ("TIMESTAMP\n2023-11-16 18:17:03.\n", "line 2, column TIMESTAMP"),
        ("TIMESTAMP\n2023-11-16 18:17:03\n2023-11-16 18:17:04Z\n", "line 3, column TIMESTAMP: has a time zone"),
        ("TIMESTAMP\n2023-11-16 18:17:03.5\n2023-11-16 18:17:03.4\n", "line 3: time goes back"),
        ("\x00\udcff", "not a CSV text file"),
    ],
)
def test_errors_name_file_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidInput) as caught:
        read_trace(path)
    assert str(path) in caught.value.message
    assert said in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"absent\.csv: cannot be read"):
        read_trace(tmp_path / "absent.csv")


def test_window_scaling_and_rate() -> None:
    trace = Trace("t", np.array([0.0, 2.0, 3.0, 6.0, 8.0]), ("a", "b", "a", "a", "b"))
    assert trace.window(2, 7).times_s.tolist() == [0.0, 1.0, 4.0]
    assert trace.window(2, 7).models == ("b", "a", "a")
    assert trace.faster(2).times_s.tolist() == [0.0, 1.0, 1.5, 3.0, 4.0]
    scaled = trace.at_rate(10)
    assert len(scaled) / scaled.times_s[-1] == pytest.approx(10)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda t: t.only("z"), "models in it: a, b"),
        (lambda t: t.window(10), "runs from 0 s to 8 s"),
        (lambda t: t.faster(0), "trace-speed must be above zero"),
        (lambda t: Trace("t", np.array([0.0])).at_rate(5), "at one instant"),
        (lambda t: Trace("t", np.array([0.0])).only("a"), "no model column"),
    ],
)
def test_misuse_says_what_is_there(use: object, said: str) -> None:
    trace = Trace("t", np.array([0.0, 8.0]), ("a", "b"))
    with pytest.raises(InvalidInput, match=said):
        use(trace)  # type: ignore[operator]
