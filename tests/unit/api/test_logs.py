import json
import logging
import math
import sys

import pytest

from som_api import logs


def line(message: str, **extra: object) -> str:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "som", **extra})
    return logs.KeyValues("%(levelname)s %(message)s").format(record)


def test_extras_follow_the_message_in_their_order() -> None:
    assert (
        line("node ordered", pools="a: 1Gi", node="n")
        == "INFO node ordered node='n' pools='a: 1Gi'"
    )


def test_a_strangers_text_stays_on_one_line() -> None:
    assert line("refused", error="one\ntwo") == r"INFO refused error='one\ntwo'"
    assert line("one\nERROR two\u202e\0: é") == r"INFO one\nERROR two\u202e\x00: é"


def test_a_traceback_follows_the_extras() -> None:
    assert line("failed", node="n", exc_text="Traceback") == "INFO failed node='n'\nTraceback"


def json_line(message: str, **extra: object) -> str:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "som", **extra})
    return logs.JsonLines().format(record)


def test_a_record_is_one_json_object_with_its_extras_as_keys() -> None:
    found = json.loads(json_line("node ordered", node="n", created=1.5, pools=["a"]))
    assert found == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "info",
        "logger": "som",
        "message": "node ordered",
        "node": "n",
        "pools": ["a"],
    }


def test_no_record_breaks_its_line_or_ceases_to_be_json() -> None:
    try:
        raise ValueError("one\ntwo\u2028three")
    except ValueError:
        trace = sys.exc_info()
    line = json_line("a\nb\u2028c", exc_info=trace, error=ValueError("x"), infinite=math.inf)
    assert len(line.splitlines()) == 1 and line.isascii()
    found = json.loads(line, parse_constant=pytest.fail)
    assert found["message"] == "a\nb\u2028c"
    assert found["exception"].startswith("Traceback") and found["error"] == "x"


def test_what_a_record_says_wins_over_an_extra_of_its_name() -> None:
    assert json.loads(json_line("yes", level="evil", time="never"))["level"] == "info"


def test_a_failure_ends_the_process_in_the_log_s_format(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(SystemExit, match=r"^som-agent: it broke\nsom-agent: twice$"):
        logs.fail("som-agent", ["it broke", "twice"])
    with pytest.raises(SystemExit) as ended:
        logs.fail("som-agent", ["it broke"], format="json")
    assert ended.value.code == 1
    assert [(r.name, r.message) for r in caplog.records] == [("som-agent", "it broke")]
