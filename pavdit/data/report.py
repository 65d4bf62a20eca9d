"""The result of a check as JSON for programs and as one HTML page for people."""

from __future__ import annotations

import dataclasses
import html
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pavdit.data.check import Checked
from pavdit.data.judge import REASONS, Limits

PICTURES_ON_A_PAGE = 1000
"""Files beyond these are in the JSON alone: a page of a hundred thousand pictures opens nowhere."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #1c1e21; background: #fff; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.about { color: #5a6068; margin-top: 0; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .45rem .8rem .45rem 0; border-top: 1px solid #e3e6ea;
         vertical-align: top; }
th { border-top: none; color: #5a6068; font-weight: 500; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { display: block; height: 54px; border-radius: 3px; background: #e3e6ea; }
code { font-size: .92em; overflow-wrap: anywhere; }
.reason { font-weight: 600; white-space: nowrap; }
table.counts { width: auto; }
@media (prefers-color-scheme: dark) {
  body { color: #e4e6e9; background: #17191c; } td, th { border-color: #33373d; }
  p.about, th { color: #9aa1aa; } img { background: #33373d; }
}
"""


def counts(checked: Sequence[Checked]) -> dict[str, int]:
    """Files per reason; a file with two reasons counts twice."""
    found = Counter(reason for file in checked for reason in {f.reason for f in file.findings})
    return {reason: found[reason] for reason in REASONS if found[reason]}


def bad_share(checked: Sequence[Checked]) -> float:
    """Share of files with a finding."""
    return sum(bool(file.findings) for file in checked) / len(checked)


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def as_json(checked: Sequence[Checked], root: Path, limits: Limits) -> str:
    """Everything but the pictures; the same for the same files and limits."""
    files = []
    for file in checked:
        measured = dataclasses.asdict(file.measured)
        del measured["thumbnail"], measured["signature"]
        entry = {
            "path": _name(file.path, root),
            "sha256": file.sha256,
            "findings": [dataclasses.asdict(finding) for finding in file.findings],
            "measured": measured,
        }
        if file.looks_like is not None:
            entry["looks_like"] = _name(file.looks_like, root)
        files.append(entry)
    summary = {
        "root": str(root),
        "limits": dataclasses.asdict(limits),
        "files": len(checked),
        "bad_files": sum(bool(file.findings) for file in checked),
        "bad_share": bad_share(checked),
        "reasons": counts(checked),
    }
    return json.dumps(summary | {"checked": files}, indent=1, ensure_ascii=False) + "\n"


def _row(file: Checked, root: Path, reason: str, detail: str) -> str:
    data = file.measured.thumbnail
    picture = f'<img alt="" src="data:image/jpeg;base64,{data}">' if data else ""
    size = f"{file.measured.seconds:.2f} s" if file.measured.seconds else ""
    return (
        f"<tr><td>{picture}</td><td><code>{html.escape(_name(file.path, root))}</code></td>"
        f'<td class="number">{size}</td><td class="reason">{html.escape(reason)}</td>'
        f"<td>{html.escape(detail)}</td></tr>"
    )


def _table(rows: Sequence[str]) -> str:
    head = "<tr><th></th><th>file</th><th>length</th><th>reason</th><th>wanted and got</th></tr>"
    more = len(rows) - PICTURES_ON_A_PAGE
    note = f"<p>{more} more are in report.json.</p>" if more > 0 else ""
    return f"<table>{head}{''.join(rows[:PICTURES_ON_A_PAGE])}</table>{note}"


def as_html(checked: Sequence[Checked], root: Path, limits: Limits) -> str:
    """One page without anything outside of it: counts, then every bad file with pictures of it."""
    bad = [file for file in checked if file.findings]
    alike = [file for file in checked if file.looks_like is not None]
    seconds = sum(file.measured.seconds for file in checked)
    about = (
        f"{len(checked)} files, {seconds / 3600:.2f} h of picture and sound; {len(bad)} bad ones. "
        f"Limits: at least {limits.min_seconds:g} s, at most {limits.max_share:.0%} silent, black or frozen, "
        f"ends within {limits.max_drift_seconds:g} s."
    )
    lines = "".join(
        f'<tr><td>{reason}</td><td class="number">{count}</td></tr>'
        for reason, count in counts(checked).items()
    )
    body = f"<h1>{html.escape(str(root))}</h1><p class='about'>{about}</p>"
    body += f'<table class="counts">{lines}</table>' if bad else "<p>Nothing is wrong with any of them.</p>"
    if bad:
        rows = [_row(file, root, f.reason, f.detail) for file in bad for f in file.findings]
        body += "<h2>Bad files</h2>" + _table(rows)
    if alike:
        rows = [
            _row(file, root, "looks alike", f"the pictures of {_name(file.looks_like, root)}")
            for file in alike
            if file.looks_like is not None
        ]
        body += "<h2>Files that look like another</h2><p class='about'>Not counted as bad.</p>" + _table(rows)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>pavdit data check: {html.escape(root.name)}</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
