"""What rules match according to pySigma and SQLite: a judgement that shares no code with ours.

Reads from standard input {"cases": [{"rule": "<YAML>", "events": [{field: value}]}]}; writes
{"cases": [{"error": null | text, "verdicts": [true | false]}]}. Each rule is converted to SQL by pySigma's SQLite
backend and run over a table of its events. The backend knows keywords only where a column holds the whole event; here
they are looked for in every column, from the same tree of conditions.
"""

import json
import re
import sqlite3
import sys

from sigma.backends.sqlite import sqliteBackend
from sigma.collection import SigmaCollection
from sigma.conditions import ConditionFieldEqualsValueExpression
from sigma.types import SigmaCasedString, SigmaCompareExpression, SigmaFieldReference


class AnyColumn(sqliteBackend):
    """The SQLite backend with keywords looked for in every column."""

    columns = []

    def _anywhere(self, form):
        fields = [self.escape_and_quote_field(column) for column in self.columns]
        return "(" + " OR ".join(form(field) for field in fields) + ")" if fields else "(0)"

    def convert_condition_val_str(self, cond, state):
        cased = isinstance(cond.value, SigmaCasedString)
        value = self.convert_value_str(cond.value, state, no_quote=True, glob_wildcards=cased)
        if cased:
            return self._anywhere(lambda field: f"{field} GLOB '*{value}*'")
        return self._anywhere(lambda field: f"{field} LIKE '%{value}%' ESCAPE '\\'")

    def convert_condition_val_num(self, cond, state):
        return self._anywhere(lambda field: f"{field} LIKE '%{cond.value}%' ESCAPE '\\'")

    def convert_condition_val_re(self, cond, state):
        regex = self.convert_value_re(cond.value, state)
        flags = self.get_flag_template(cond.value)
        return self._anywhere(lambda field: self.re_expression.format(field=field, regex=regex, **flags))


def walk(condition):
    yield condition
    for arg in getattr(condition, "args", []):
        yield from walk(arg)


def fields_of(rule):
    """Names that a rule uses, and those that it compares as numbers."""
    used, numbers = set(), set()
    for condition in rule.detection.parsed_condition:
        for part in walk(condition.parsed):
            if isinstance(part, ConditionFieldEqualsValueExpression):
                used.add(part.field)
                if isinstance(part.value, SigmaCompareExpression):
                    numbers.add(part.field)
                if isinstance(part.value, SigmaFieldReference):
                    used.add(part.value.field)
    return used, numbers


def quote(name):
    return '"' + name.replace('"', '""') + '"'


def regexp(pattern, value):
    return value is not None and re.search(pattern, str(value)) is not None


def judge(case):
    collection = SigmaCollection.from_yaml(case["rule"])
    rule = collection.rules[0]
    used, numbers = fields_of(rule)
    columns = sorted(used | {name for event in case["events"] for name in event})
    backend = AnyColumn(collate_nocase=True)
    # What no event of a source has is no place to look for a keyword in.
    backend.columns = sorted({name for event in case["events"] for name in event})
    queries = backend.convert(collection)
    table = sqlite3.connect(":memory:")
    table.create_function("regexp", 2, regexp)
    kinds = [f"{quote(name)} {'NUMERIC' if name in numbers else 'TEXT'}" for name in columns]
    table.execute(f"CREATE TABLE logs (event_number INTEGER, {', '.join(kinds)})")
    places = ", ".join("?" * (len(columns) + 1))
    rows = [[number] + [event.get(name) for name in columns] for number, event in enumerate(case["events"])]
    table.executemany(f"INSERT INTO logs VALUES ({places})", rows)
    found = set()
    for query in queries:
        found.update(row[0] for row in table.execute(query))
    return [number in found for number in range(len(case["events"]))]


def main():
    answers = []
    for case in json.load(sys.stdin)["cases"]:
        try:
            answers.append({"error": None, "verdicts": judge(case)})
        except Exception as error:  # one rule that it cannot judge hinders no other
            answers.append({"error": f"{type(error).__name__}: {error}", "verdicts": []})
    json.dump({"cases": answers}, sys.stdout)


if __name__ == "__main__":
    main()
