"""The LoRA that a unit of work names, in the pipeline for as long as it is sampled."""

import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from predictors.lora.adapters import Adapters
from predictors.lora.fetch import fetch_lora
from predictors.operator_settings import OperatorSettings
from predictors.outbound import guard_outbound
from weights.variants import Variant


class UnitLoras:
    """Puts LoRAs into one pipeline; what is said of each is said once, on stderr."""

    def __init__(
        self,
        transformer: Any,
        variant: Variant,
        operator: OperatorSettings,
        folders: tuple[Path, ...],
    ) -> None:
        """`folders`: where LoRAs may be on this disk beside those that the operator names."""
        places = operator.lora_places
        self._places = replace(places, folders=(*places.folders, *folders))
        self._operator = operator
        self._adapters = Adapters(transformer, variant)
        self._told: set[str] = set()

    @contextmanager
    def applied(self, lora: str, scale: float) -> Iterator[None]:
        """The transformer has the LoRA that `lora` names, or none where it is "".

        From the first one that is fetched on, this process connects only to the public internet
        and to what the operator lists.

        Raises:
            UserError: it names no LoRA for this model, or one that may not be used.
            OperationError: it can't be fetched.
        """
        said = io.StringIO()
        with ExitStack() as stack:
            path = None
            if lora:
                if not lora.startswith("/"):
                    # A prompt file may come from others: it must not reach into this network.
                    guard_outbound(self._operator.networks)
                use = fetch_lora(lora, self._operator.cache, self._places)
                path = stack.enter_context(use).path
            with redirect_stdout(said):
                stack.enter_context(self._adapters.applied(path, scale))
            self._tell_once(said.getvalue())
            yield

    def _tell_once(self, text: str) -> None:
        if text and text not in self._told:
            self._told.add(text)
            sys.stderr.write(text)
