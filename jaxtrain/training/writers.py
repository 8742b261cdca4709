"""Where the metrics of a run go. One small protocol; CSV always, TensorBoard and Weights & Biases on request."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Row(NamedTuple):
    """One number: after ``step`` steps, of which split, which metric, which member."""

    step: int
    split: str
    metric: str
    member: int
    value: float


@runtime_checkable
class Writer(Protocol):
    """Takes rows in the order of steps."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class CsvWriter:
    """``metrics.csv``: step, split, metric, member, value; float32 values come back exactly.

    Opened at a position it cuts off what was written after it, so that a resumed run neither loses nor doubles a row.

    Args:
      path: the file.
      position: bytes to keep; None: start anew.
    """

    HEADER = ",".join(Row._fields) + "\n"

    def __init__(self, path: Path, position: int | None = None):
        self._file = open(path, "r+b" if position is not None else "w+b")
        if position is None:
            self._file.write(self.HEADER.encode())
        else:
            self._file.seek(0, os.SEEK_END)
            if (size := self._file.tell()) < position:
                self._file.close()
                raise ValueError(f"{Path(path).name} has {size} bytes, the checkpoint knows of {position}")
            self._file.truncate(position)
            self._file.seek(position)
        self._file.flush()

    def write(self, rows: Sequence[Row]) -> None:
        """Appends rows and hands them to the operating system."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((*row[:4], f"{row.value:.9g}") for row in rows)
        self._file.write(text.getvalue().encode())
        self._file.flush()

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class NoWriter:
    """Takes rows and forgets them: what every process but the first writes to."""

    position = 0

    def write(self, rows: Sequence[Row]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a ``metrics.csv``."""
    with open(path, newline="") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        if header != list(Row._fields):
            raise ValueError(f"{path} is not a metrics file: its first line is {header}")
        return [Row(int(r[0]), r[1], r[2], int(r[3]), float(r[4])) for r in reader]


class TensorBoardWriter:
    """TensorBoard event files, one tag ``split/metric/member`` for each curve; needs ``tensorboardX``."""

    def __init__(self, directory: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError("TensorBoard files need tensorboardX: pip install 'jaxtrain[tensorboard]'") from None
        self._writer: Any = SummaryWriter(str(directory))

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._writer.add_scalar(f"{row.split}/{row.metric}/{row.member}", row.value, row.step)

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """A Weights & Biases run; needs ``wandb``."""

    def __init__(self, project: str, config: dict[str, Any]):
        try:
            import wandb
        except ImportError:
            raise ImportError("Weights & Biases needs its package: pip install 'jaxtrain[wandb]'") from None
        self._run: Any = wandb.init(project=project, config=config)

    def write(self, rows: Sequence[Row]) -> None:
        by_step: dict[int, dict[str, float]] = {}
        for row in rows:
            by_step.setdefault(row.step, {})[f"{row.split}/{row.metric}/{row.member}"] = row.value
        for step, values in by_step.items():
            self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
