"""AMC: a reinforcement-learning agent decides how much of each group to keep."""

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dsa_core.allocation import Allocation, Update
from dsa_core.budget import Budget, round_to_channels
from dsa_core.channels import ChannelGraph
from dsa_core.errors import ConfigError
from dsa_core.methods.amc_reward import MaskedScore
from dsa_core.methods.config import AMCSettings, SearchConfig, SearchJob
from dsa_core.scheme import check_one_resource
from dsa_core.training import (
    Precision,
    device_of_model,
    keep_freed_memory,
    load_checkpoint,
    save_checkpoint,
)
from dsa_core.training.stopwatch import Stopwatch, total_time

NEEDED = ("gymnasium", "stable_baselines3")


def check_amc(graph: ChannelGraph, budget: Budget, config: SearchConfig) -> None:
    """Refuse a budget that AMC cannot meet, and what it cannot start from."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"amc needs {' and '.join(missing)}: pip install 'dsa_core[amc]'")
    from dsa_core.methods.amc_env import Wall  # see below

    if config.warmup_epochs:
        raise ConfigError(
            f"amc starts from a trained network, but warmup_epochs={config.warmup_epochs} says "
            "that this one starts from random weights: use a preset that trains a dense "
            "network (quick, cpu-short)"
        )
    check_one_resource("amc", budget)
    budget.check(budget.cost(graph))
    Wall.of(graph, budget, (config.amc or AMCSettings()).keep_least)


class AMCSearch:
    """A search by AMC: reinforcement learning on a trained network, whose weights do not change.

    In each episode the agent decides, group by group, how many channels to keep (`amc_env`). The
    reward is the score of the dense network under the mask, on held-out examples (`held_out`, or
    `ratios` if that is None), without fine-tuning. The counts of the best episode are used, and
    whatever they leave of the budget is spent as in all methods (`round_to_channels`). `on_step` is
    called after every episode.

    Deviations from the paper: one decision per channel *group*, not per layer; the reward comes
    at the last decision, and no moving average is subtracted from it; channels are removed by
    masks, and the remaining weights are not refitted to the outputs of the dense layers.

    Raises:
        BudgetError: the budget is below what `keep_least` allows.
        ConfigError: the network is not trained: the configuration has warm-up epochs.
        TrainingError: a score is not a number, or the checkpoint belongs to another run.
        KeyboardInterrupt: raised again, with a message that says how to resume.

    Source: He et al., AMC, ECCV 2018 (arXiv:1802.03494).
    """

    def __init__(self, job: SearchJob) -> None:
        model, graph, budget, config = job.model, job.graph, job.budget, job.config
        check_amc(graph, budget, config)
        # these libraries take seconds to import, and only this method needs them
        from dsa_core.methods.amc_agent import Agent, isolated_rngs
        from dsa_core.methods.amc_env import PruningEnv

        self.device, settings = device_of_model(model), config.amc or AMCSettings()
        keep_freed_memory(self.device)
        self.graph, self.budget, self.data, self.on_step = graph, budget, job.data, job.on_step
        self.cost, self.settings, self.random = budget.cost(graph), settings, isolated_rngs
        self.fingerprint = job.fingerprint("amc")
        least = settings.keep_least
        self.env = PruningEnv(model, graph, budget, self._reward, keep_least=least)
        self.score = MaskedScore(model, graph, job.data, settings, config.train)
        with isolated_rngs():
            self.agent = Agent(self.env, settings, job.seed)
        self.updates: list[Update] = []
        self.rewards: list[float] = []
        self.spent = total_time([])  # up to the start of the watch
        self.watch, self.stopped, self.saved = Stopwatch(), False, 0

    def run(self) -> Allocation:
        """Run all episodes, starting from the checkpoint if there is one."""
        self._restore()
        path, episodes = self.data.checkpoint, self.settings.episodes
        hide = not self.data.progress
        with tqdm(total=episodes, initial=self.saved, unit="episode", disable=hide) as bar:

            def after() -> bool:
                bar.update()
                self.stopped = self.on_step is not None and bool(self.on_step(self.updates[-1]))
                return self.stopped

            try:
                with self.random():
                    self.watch = Stopwatch()
                    self.agent.play(episodes, self._before, after)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(self._interrupted()) from None
        self._tick()
        if not self.stopped and path is not None and self.saved < episodes:
            self._save()
        return self._allocation()

    def _reward(self, counts: Tensor) -> float:
        """The reward of a finished episode, which is also recorded."""
        worth = self.score(counts)
        self.rewards.append(self.score.reward(worth))
        update = Update(
            step=len(self.updates),
            budget=self.budget.ratio,
            cost=self.cost.at(counts) / self.cost.dense,
            keep_ratios=tuple((counts / self.cost.sizes).tolist()),
            figures={"loss": worth.loss},
        )
        self.updates.append(update)
        return self.rewards[-1]

    def _before(self, done: int) -> None:
        if done > self.saved and done % self.settings.save_every == 0:
            self._save()

    def _tick(self) -> None:
        self.spent = total_time([self.spent, self.watch.read()])
        self.watch = Stopwatch()

    def _save(self) -> None:
        """Write everything the next episode depends on."""
        self._tick()
        self.saved = len(self.updates)
        if self.data.checkpoint is None:
            return
        state = {
            "fingerprint": self.fingerprint,
            "agent": self.agent.saved(),
            "updates": [asdict(u) for u in self.updates],
            "rewards": self.rewards,
            "precision": asdict(self.score.precision),
            **self.spent,
        }
        save_checkpoint(self.data.checkpoint, state)

    def _restore(self) -> None:
        path = self.data.checkpoint
        if path is None or not path.exists():
            return
        state = load_checkpoint(path, self.fingerprint)
        self.agent.restore(state["agent"])
        self.score.use(Precision(**state["precision"]))
        self.updates = [Update(**update) for update in state["updates"]]
        self.rewards, self.spent = list(state["rewards"]), total_time([state])
        self.saved = len(self.updates)

    def _interrupted(self) -> str:
        path, done = self.data.checkpoint, f"{self.saved} of {self.settings.episodes}"
        if path is None:
            return (
                f"search interrupted after {len(self.updates)} episodes; without a checkpoint the "
                "next one starts over"
            )
        return f"search interrupted; {done} episodes are saved: the same call resumes from {path}"

    def _allocation(self) -> Allocation:
        """The best episode, rounded to the budget."""
        rewards = self.rewards
        best = max(range(len(rewards)), key=rewards.__getitem__)
        ratios = torch.tensor(self.updates[best].keep_ratios, dtype=torch.float64)
        return Allocation(
            method="amc",
            graph=self.graph,
            budget=self.budget,
            keep_ratios=ratios,
            importance=self.score.importance.cpu(),
            counts=round_to_channels(ratios, self.cost, self.budget),
            updates=tuple(self.updates),
            **self.spent,
            device=str(self.device),
            notes={"stopped": self.stopped, **self._notes(best)},
        )

    def _notes(self, best: int) -> dict[str, Any]:
        """Facts about the episodes; the mean rewards show whether the agent learned anything."""
        cut, precision = self.settings.random_episodes, self.score.precision
        found: dict[str, Any] = {
            "precision": precision.name,
            "channels_last": precision.channels_last,
            "amc_episodes": len(self.rewards),
            "amc_examples": sum(len(x) for x, _ in self.score.batches),
            "amc_best_episode": best + 1,
            "amc_best_reward": self.rewards[best],
            "amc_dense_score": self.score.dense.score,
        }
        for name, part in (("random", self.rewards[:cut]), ("last", self.rewards[cut:][-50:])):
            if part:
                found[f"amc_mean_reward_{name}"] = sum(part) / len(part)
        return found
