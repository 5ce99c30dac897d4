"""Controls of Qt as the widget has them, and choices whose values are objects of Python."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QGroupBox, QSpinBox, QVBoxLayout, QWidget


def choice(tip: str, names: dict[str, str] | None = None) -> QComboBox:
    """A box with items: value to name."""
    box = QComboBox()
    box.setToolTip(tip)
    # Long names of layers must not make the dock wide.
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(14)
    for value, name in (names or {}).items():
        box.addItem(name, value)
    return box


def number(box: QSpinBox | QDoubleSpinBox, largest: float, tip: str) -> Any:
    """`box`, for numbers from 0 to `largest`."""
    box.setRange(0, largest)
    box.setToolTip(tip)
    return box


def form(*rows: tuple[str, QWidget]) -> QFormLayout:
    """Rows of a name and a box."""
    form = QFormLayout()
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for name, box in rows:
        form.addRow(name, box)
    return form


def group(title: str, layout: QFormLayout | QVBoxLayout) -> QGroupBox:
    """A frame with a title."""
    group = QGroupBox(title)
    group.setLayout(layout)
    return group


def choose(box: QComboBox, value: Any) -> bool:
    """Choose the item of `value`, if it is offered; Qt compares objects of Python in no defined way."""
    index = next((index for index in range(box.count()) if _same(box.itemData(index), value)), -1)
    if index >= 0:
        box.setCurrentIndex(index)
    return index >= 0


def _same(one: Any, other: Any) -> bool:
    # Layers may compare their data.
    return one is other or (isinstance(one, str | int) and one == other)


def offer(box: QComboBox, items: list[tuple[str, Any]], last: bool = False) -> None:
    """Offer other items; the choice stays if it can, or else it is the first item, or the last."""
    chosen = box.currentData()
    box.blockSignals(True)
    box.clear()
    for name, value in items:
        box.addItem(name, value)
    if not choose(box, chosen):
        box.setCurrentIndex(len(items) - 1 if last else 0)
    box.blockSignals(False)
