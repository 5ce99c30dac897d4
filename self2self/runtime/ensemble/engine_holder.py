"""One engine for many images, or tiles, of one size: preparing it takes seconds, a new image little or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.ensemble.host_loop import PassTooLarge
from self2self.runtime.model import Model


class EngineHolder:
    """Keeps an engine from one image, or tile, to the next of the same size; use it as a context manager."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def engine_for(self, kind: type[Engine], model: Model, image: FloatArray, on_note: Callable[[str], None]) -> Engine:
        """An engine of class `kind` that is prepared for `image`, float32 [1, C, H, W].

        Raises:
            Self2SelfError: as for `Engine` and its `prepare`.
            PassTooLarge: there is no memory for what a kept engine makes of `image`.
        """
        kept = self._engine
        if kept is not None and type(kept) is kind and kept.model is model and kept.image.shape == image.shape:
            try:
                kept.set_image(image)
            except MemoryError as error:
                self.close()
                raise PassTooLarge(
                    "out of memory: the engine does not fit. Close other programs or denoise a smaller image."
                ) from error
        else:
            # Before the next is made: two of them may not fit into memory.
            self.close()
            made = kind(model, image)
            made.note = on_note
            self._engine = kept = made.__enter__()
        kept.note = on_note
        return kept

    def close(self) -> None:
        """Release the engine; safe to call twice."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
