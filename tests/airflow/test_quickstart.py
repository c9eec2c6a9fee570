"""The commands of the quickstart page, run in a shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

from airflow_provider_manxue.testing import Emulator

PAGE = Path(__file__).parents[2] / "docs/quickstart.md"


def test_quickstart_commands_save_a_video(tmp_path):
    text = PAGE.read_text().replace("/tmp/manxue", str(tmp_path / "videos"))
    chapters = dict(re.findall(r"^## (\d)\. .*\n((?:(?!## ).*\n)*)", text, re.MULTILINE))
    (setup,), (dag,), (trial,) = (
        re.findall(rf"^```{language}\n((?:.*\n)*?)^```", chapters[number], re.MULTILINE)
        for number, language in (("3", "shell"), ("3", "python"), ("4", "shell"))
    )
    folder = tmp_path / "manxue-quickstart"
    activate = folder / "venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")

    with Emulator() as emulator:
        script = f"set -e\n{setup}\ncat > airflow/dags/first_video.py\n{trial}"
        run = subprocess.run(
            ["bash", "-c", script.replace("127.0.0.1:8765", emulator.url.removeprefix("http://"))],
            cwd=tmp_path,
            input=dag,
            capture_output=True,
            text=True,
            timeout=300,
            env={name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        )
        billed = emulator.ledger.billed

    assert run.returncode == 0, run.stdout + run.stderr
    (saved,) = (tmp_path / "videos").iterdir()
    assert saved.name in run.stdout.splitlines()[-1]
    assert saved.read_bytes()[4:8] == b"ftyp"
    assert billed == 1
