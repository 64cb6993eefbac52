"""How an application dies: what ESP-IDF's panic handler and watchdogs print, and the reset that follows."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_hut.firmware.descriptors import AppDescription, idf_release
from pytest_hut.virtual.machine import ResetCause
from pytest_hut.virtual.output import Output

_PRINT_S = 0.02
_HARDWARE_WATCHDOG_S = 0.3
_RISCV_CHIPS = ("esp32c3", "esp32c6")
_RISCV_NAMES = {
    "StoreProhibited": "Store access fault",
    "LoadProhibited": "Load access fault",
    "IllegalInstruction": "Illegal instruction",
}
_CAUSES = {"StoreProhibited": (0x1D, 7), "LoadProhibited": (0x1C, 5), "IllegalInstruction": (0x00, 2)}
"""EXCCAUSE of the Xtensa cores and MCAUSE of the RISC-V ones."""
_INTERRUPT_WATCHDOG_CAUSES = (0x05, 24)
_BACKTRACE = (
    (0x40081925, 0x3FFDA4E0),
    (0x4008ED6D, 0x3FFDA500),
    (0x40092E39, 0x3FFDA520),
    (0x400D5C1B, 0x3FFDA590),
    (0x400FA5E0, 0x3FFDA5D0),
)
_PC = 0x4008F20D


@dataclass(frozen=True)
class Crash:
    """The crash of one application: prints, then says how the chip starts again."""

    out: Output
    description: AppDescription | None

    def happen(self, kind: str) -> ResetCause:
        """Die of `kind` (console_script.PANIC_KINDS)."""
        match kind:
            case "abort":
                self.abort()
            case "assert":
                self.out.line()
                self.out.line("assert failed: app_main main.c:42 (state == READY)")
                self._end()
            case "stack_smash":
                self.out.line()
                self.out.line("Stack smashing protect failure!")
                self.abort()
            case "task_wdt":
                self._task_watchdog()
            case "int_wdt":
                self._guru("Interrupt wdt timeout on CPU0", "", _INTERRUPT_WATCHDOG_CAUSES)
            case "hw_wdt":
                self.out.sleep(_HARDWARE_WATCHDOG_S)
                return ResetCause.INTERRUPT_WATCHDOG
            case _:
                name = _RISCV_NAMES[kind] if self._riscv else kind
                self._guru(name, ". Exception was unhandled.", _CAUSES[kind])
        return ResetCause.SOFTWARE_CPU

    def abort(self) -> None:
        """Print what abort() prints, up to the restart."""
        self.out.line()
        self.out.line("abort() was called at PC 0x400813b7 on core 0")
        self._end()

    @property
    def _riscv(self) -> bool:
        return self.out.machine.spec.chip in _RISCV_CHIPS

    @property
    def _release(self) -> tuple[int, int]:
        return idf_release(self.description.idf_version) if self.description else (0, 0)

    def _task_watchdog(self) -> None:
        texts = (
            "Task watchdog got triggered. The following tasks did not reset the watchdog in time:",
            " - IDLE (CPU 0)",
            "Tasks currently running:",
            "CPU 0: main",
            "CPU 1: IDLE",
            "Aborting.",
        )
        for text in texts:
            self.out.error("task_wdt", text)
        self.abort()

    def _guru(self, name: str, remark: str, causes: tuple[int, int]) -> None:
        self.out.line(f"Guru Meditation Error: Core  0 panic'ed ({name}){remark}")
        self.out.line()
        self._registers(causes)
        self._end()

    def _registers(self, causes: tuple[int, int]) -> None:
        xtensa, riscv = causes
        if self._riscv:
            names = ["MEPC", "RA", "SP", "GP", "TP", "T0", "T1", "T2", "S0/FP", "S1", "A0", "A1"]
            names += ["A2", "A3", "A4", "A5", "A6", "A7", "S2", "S3", "S4", "S5", "S6", "S7"]
            names += ["S8", "S9", "S10", "S11", "T3", "T4", "T5", "T6"]
            names += ["MSTATUS", "MTVEC", "MCAUSE", "MTVAL", "MHARTID"]
            known = {"MEPC": 0x42007D5E, "SP": 0x3FC8F9B0, "MCAUSE": riscv, "MHARTID": 0}
        else:
            names = ["PC", "PS", *(f"A{n}" for n in range(16)), "SAR", "EXCCAUSE"]
            names += ["EXCVADDR", "LBEG", "LEND", "LCOUNT"]
            known = {"PC": _PC, "PS": 0x00060533, "A1": _BACKTRACE[0][1], "EXCCAUSE": xtensa, "EXCVADDR": 0x20}
        self.out.line("Core  0 register dump:")
        cells = [f"{name:<8}: {known.get(name, index * 0x01010101):#010x}  " for index, name in enumerate(names)]
        for start in range(0, len(cells), 4):
            self.out.line("".join(cells[start : start + 4]))

    def _end(self) -> None:
        self.out.line()
        if self._riscv:
            self.out.line("Stack memory:")
            for row in range(4):
                words = " ".join(f"{row * 0x10203040 & 0xFFFFFFFF:#010x}" for _ in range(8))
                self.out.line(f"{0x3FC8F9B0 + row * 32:08x}: {words}")
        else:
            frames = " ".join(f"{pc:#x}:{sp:#x}" for pc, sp in _BACKTRACE)
            self.out.line(f"Backtrace:{'' if self._release < (4, 4) else ' '}{frames}")
        self.out.line()
        self.out.line()
        if self.description is not None:
            self.out.line(f"ELF file SHA256: {self.description.elf_sha256[: 9 if self._release >= (5, 1) else 16]}")
            self.out.line()
        self.out.line("Rebooting...")
        self.out.sleep(_PRINT_S)
