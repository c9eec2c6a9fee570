"""The Dags on the page *Patterns*. (Airflow parses only files that contain its name and the word Dag.)"""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "patterns.md"

for number, code in enumerate(
    re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
):
    exec(compile(code, f"{PAGE}, block {number}", "exec"))
