"""A bench of three virtual slots with two chips, and who ran what on it."""

from __future__ import annotations

from lab import Lab, Session

BENCH = (("hut-01", "esp32"), ("hut-02", "esp32"), ("hut-03", "esp32s3"))


def write_bench(lab: Lab, slots: tuple[tuple[str, str], ...] = BENCH) -> None:
    """Write a slots.toml of virtual slots with chips."""
    lab.write_slots(*(slot for slot, _ in slots))
    path = lab.folder / "slots.toml"
    text = path.read_text()
    for slot, chip in slots:
        text = text.replace(f"[slots.{slot}]\n", f'[slots.{slot}]\nchip = "{chip}"\n')
    path.write_text(text)


def ran(session: Session) -> dict[str, tuple[str | None, str]]:
    """Return slot and outcome of each test; every test is in the report once."""
    names = [test.node_id.split("::")[1] for test in session.report.tests]
    assert len(names) == len(set(names)), session.output
    return {test.node_id.split("::")[1]: (test.slot, test.outcome) for test in session.report.tests}
