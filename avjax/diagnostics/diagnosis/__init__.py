"""The report of a diagnosis: what ``avjax diagnose`` writes, reads again, compares and holds to bounds.

result.py     Diagnosis: lines, facts, arrays of clips, clips shown
arrays.py     what lines and arrays are called
files.py      report.json (report.schema.json), samples.npz, report.html
page.py       what the page shows; panels/ its sections, charts.py its charts, pictures.py its clips
rules.py      from numbers to lights and remedies; verdicts.py applies them, headline.py tells all in one row
versus.py     two diagnoses of the same clips
gate.py       bounds.yaml
"""

from avjax.diagnostics.diagnosis.files import ReportError, read, write
from avjax.diagnostics.diagnosis.gate import GateError, exit_code, read_bounds, violations
from avjax.diagnostics.diagnosis.headline import headline
from avjax.diagnostics.diagnosis.result import INDEX, SOURCE, Diagnosis, ShownClip
from avjax.diagnostics.diagnosis.verdicts import verdicts
from avjax.diagnostics.diagnosis.versus import Versus, VersusError, compare

__all__ = [
    "INDEX",
    "SOURCE",
    "Diagnosis",
    "GateError",
    "ReportError",
    "ShownClip",
    "Versus",
    "VersusError",
    "compare",
    "exit_code",
    "headline",
    "read",
    "read_bounds",
    "verdicts",
    "violations",
    "write",
]
