"""The steps of a fine-tuning, for every variant: LoRA or all weights, one process or many.

`accelerate launch` starts the processes of several GPUs or machines and says how weights are spread
over them (DDP, FSDP); what each step learns from does not depend on that.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training.ema import Ema
from training.finetuning.batches import global_batch_of, shares
from training.finetuning.checkpoint import (
    TENSORS,
    averaged_state,
    restore,
    trainable_state,
    training_state,
)
from training.finetuning.encoded_clips import EncodedClips
from training.finetuning.interruption import held_interruptions
from training.finetuning.objective import Objective
from training.finetuning.optimizer import new_optimizer, set_learning_rate
from training.finetuning.settings import FinetuneSettings
from training.lr_schedules import schedule_named
from training.progress import Steps
from training.run_folder import RunFolder
from weights.errors import OperationError


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training ended with: the parameters, whole and on the CPU, and the last loss.

    Both are of the first process; the others have no parameters.
    """

    parameters: dict[str, torch.Tensor]
    loss: float


class Trainer:
    """A transformer in training, spread over the processes of `accelerator`."""

    def __init__(
        self,
        accelerator: Any,
        transformer: Any,
        objective: Objective,
        clips: EncodedClips,
        settings: FinetuneSettings,
    ) -> None:
        """`transformer` has its trainable parameters in float32 and the others frozen."""
        self._accelerator, self._objective = accelerator, objective
        self._clips, self._settings = clips, settings
        trainable = [p for p in transformer.parameters() if p.requires_grad]
        optimizer = new_optimizer(trainable, settings, accelerator.device)
        self._model, self._optimizer = accelerator.prepare(transformer, optimizer)
        # Found once: a LoRA's are among many that are frozen.
        self._trained = [p for p in self._model.parameters() if p.requires_grad]
        self._ema = Ema(self._model, settings.ema_decay) if settings.ema_decay else None
        self._rate = schedule_named(
            settings.lr_schedule,
            steps=settings.steps,
            warmup=settings.warmup_steps,
            options=settings.lr_options,
        )
        self._per_process = settings.batch * settings.accumulate
        self._frames = [clips.frames(number) for number in range(len(clips))]

    def train(self, run: RunFolder, validate: Callable[[Any, int], None] | None) -> Trained:
        """Do the steps that are left to do.

        Args:
            run: where the state is saved, and where one may be to go on from.
            validate: called with the transformer and the number of steps done, on all processes.

        Raises:
            OperationError: the loss is no number any more.
            KeyboardInterrupt: Ctrl-C or SIGTERM came; the state of then is saved.
        """
        settings = self._settings
        first, loss = self._go_on(run)
        with held_interruptions() as interruption:
            steps = Steps(
                "Training", first, settings.steps, shown=self._accelerator.is_main_process
            )
            for step in steps:
                loss = self._step(step)
                done = step + 1
                steps.about = f"loss {loss:.4g}"
                self._log(run, done, loss)
                _require_finite(loss, done)
                stop = self._any_process(interruption.asked)
                if done % settings.save_every == 0 or done == settings.steps or stop:
                    self._save(run, done, loss)
                last = done == settings.steps
                if stop and not last:
                    raise KeyboardInterrupt
                if validate and not last and done % settings.validate_every == 0:
                    validate(self._model, done)
        if validate:
            validate(self._model, settings.steps)
        return Trained(self._result(), loss)

    def _go_on(self, run: RunFolder) -> tuple[int, float]:
        """Restore the state that was saved last; the steps done by then and the last one's loss."""
        from accelerate.utils import broadcast_object_list

        state = (run.load() or {}) if self._accelerator.is_main_process else {}
        # Tensors are spread by `restore`.
        small = [{name: value for name, value in state.items() if name not in TENSORS}]
        (small_of_main,) = broadcast_object_list(small)
        state |= small_of_main
        if state:
            restore(state, self._model, self._plain_optimizer, self._ema, self._accelerator.scaler)
        return state.get("step", 0), state.get("loss", math.nan)

    def _step(self, step: int) -> float:
        """One step of the optimizer; the mean loss over the global batch."""
        accelerator, settings = self._accelerator, self._settings
        set_learning_rate(self._optimizer, settings.learning_rate * self._rate(step))
        batch = global_batch_of(
            step,
            self._frames,
            self._per_process * accelerator.num_processes,
            settings.seed,
        )
        losses = []
        for share in shares(
            batch,
            batch=settings.batch,
            processes=accelerator.num_processes,
            process=accelerator.process_index,
        ):
            with accelerator.accumulate(self._model):
                samples = [self._clips.sample(n) for n in share.clips]
                places = range(share.first, share.first + len(samples))
                with accelerator.autocast():
                    loss = self._objective.loss(
                        self._model, samples, [(settings.seed, step, place) for place in places]
                    )
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self._trained, settings.clip_norm)
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
                losses.append(loss.detach().float())
        if self._ema:
            self._ema.update(self._model)
        return float(accelerator.gather(torch.stack(losses)).mean())

    def _log(self, run: RunFolder, done: int, loss: float) -> None:
        rate = self._optimizer.param_groups[0]["lr"]
        if self._accelerator.is_main_process:
            run.log(step=done, loss=loss, learning_rate=rate)
        self._accelerator.log({"loss": loss, "learning_rate": rate}, step=done)

    def _any_process(self, asked: bool) -> bool:
        """Whether any process was asked to end: all must do so after the same step."""
        if self._accelerator.num_processes == 1:
            return asked
        if asked:
            self._accelerator.set_trigger()
        return bool(self._accelerator.check_trigger())

    def _save(self, run: RunFolder, done: int, loss: float) -> None:
        state = training_state(
            self._model, self._plain_optimizer, self._ema, self._accelerator.scaler
        )
        if self._accelerator.is_main_process:
            run.save({"step": done, "loss": loss, **state})
        self._accelerator.wait_for_everyone()

    def _result(self) -> dict[str, torch.Tensor]:
        return averaged_state(self._model, self._ema) if self._ema else trainable_state(self._model)

    @property
    def _plain_optimizer(self) -> torch.optim.Optimizer:
        return getattr(self._optimizer, "optimizer", self._optimizer)


def _require_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise OperationError(
            f"The loss of step {step} is {loss}.",
            "A finite number is expected: from here on the weights would be spoiled.",
            "Train again in another folder, with a lower --learning-rate or --precision bf16.",
        )
