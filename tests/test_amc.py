"""AMC: the game is as stated, no decision passes the wall, the agent learns, and it resumes."""

import random
import tempfile
from dataclasses import replace
from functools import cache

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from problems_runs import (
    TASK,
    allocate,
    fresh,
    graph8,
    search_config,
    search_data,
    stop_after,
    trained,
)
from pydantic import ValidationError
from scipy.stats import truncnorm
from torch import Tensor, nn

from dsa_core.budget import Budget, Cost
from dsa_core.errors import BudgetError, ConfigError, TrainingError
from dsa_core.lab.data import Task
from dsa_core.lab.runs import configure, run
from dsa_core.masks import top_channels
from dsa_core.methods import SearchData, amc, amc_reward
from dsa_core.methods.amc_agent import Agent, isolated_rngs, truncated_normal
from dsa_core.methods.amc_env import PruningEnv, Wall, layer_table
from dsa_core.methods.amc_reward import MaskedScore
from dsa_core.methods.config import AMCSettings
from dsa_core.ranking import importance
from dsa_core.surgery import prune
from dsa_core.tracing import trace
from dsa_core.training import FP32, Precision, evaluate

SHORT = AMCSettings(episodes=12, random_episodes=4, save_every=3, batch_size=8, hidden=16)


COST = Cost.of(graph8(), "macs")


def game(reward=lambda counts: 0.5, budget: Budget | None = None) -> PruningEnv:
    budget = budget or Budget(macs=0.5)
    return PruningEnv(trained(), graph8(), budget, reward, keep_least=0.2)


def score_of(
    settings: AMCSettings, model: nn.Module | None = None, data: SearchData | None = None
) -> MaskedScore:
    train = search_config().train
    return MaskedScore(model or trained(), graph8(), data or search_data(), settings, train)


def played(env: PruningEnv, actions) -> tuple[list, list[float], list[bool]]:
    """Observations, rewards and ends of one episode."""
    seen, rewards, ends = [env.reset()[0]], [], []
    for action in actions:
        found, reward, over, cut, _ = env.step(np.array([action], dtype=np.float32))
        seen.append(found)
        rewards.append(reward)
        ends.append(over or cut)
    return seen, rewards, ends


def test_the_environment_is_one_of_gymnasium():
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gymnasium.logger, "warn", lambda text, *rest: said.append(text))
        check_env(game(), skip_render_check=True)
    # keep ratios are in [0.2, 1], as in the paper; the agent scales them by itself
    assert all("we recommend using a symmetric and normalized space" in text for text in said)


def test_an_episode_is_a_decision_for_each_group_and_the_reward_comes_last():
    rewarded: list[list[int]] = []
    env = game(lambda counts: rewarded.append(counts.tolist()) or 0.7, Budget(macs=0.9))
    k = len(env.sizes)
    _, rewards, ends = played(env, [0.5] * k)
    assert rewards == [0.0] * (k - 1) + [0.7]
    assert ends == [False] * (k - 1) + [True]
    assert rewarded == [(env.sizes // 2).tolist()]  # no wall near: half of every group


def test_what_is_observed():
    """Static features from the network's definition, costs from counting it."""
    graph, model, cost, form = graph8(), fresh(), COST, COST.relative
    seen, _, _ = played(game(budget=Budget(macs=0.9)), [0.5] * len(cost.sizes))
    rows = torch.tensor(np.stack(seen[:-1]), dtype=torch.float64)
    index, out, read, height, width, stride, kernel, price, reduced, rest, last = rows.unbind(1)
    firsts = [model.get_submodule(group.members[0]) for group in graph.prunable]
    torch.testing.assert_close(index, torch.arange(1, 7).double() / 6)
    torch.testing.assert_close(out, cost.sizes.double() / 64)
    torch.testing.assert_close(read, torch.tensor([m.in_channels / 64 for m in firsts]).double())
    assert stride.tolist() == [m.stride[0] / 2 for m in firsts]
    assert kernel.tolist() == [m.kernel_size[0] / 3 for m in firsts]
    assert height.tolist() == width.tolist()
    assert (height[0], height[-1]) == (1.0, 0.25)  # the image itself, and after two strides
    half = cost.sizes.clone()
    for k in range(len(half)):
        gone = torch.ones(len(half), dtype=torch.float64)
        gone[k] = 0
        assert float(price[k]) == pytest.approx(1 - float(form(gone)), rel=1e-5)
        now, decided = cost.at(half) / cost.dense, half.double() / cost.sizes
        decided[k:] = 0
        assert float(reduced[k]) == pytest.approx(1 - now, abs=1e-6)
        assert float(rest[k]) == pytest.approx(now - float(form(decided)), rel=1e-5)
        assert last[k] == (0.5 if k else 1.0)
        half[k] = cost.sizes[k] // 2


@pytest.mark.parametrize(
    "budget",
    [Budget(macs=0.25), Budget(params=0.3), Budget(macs=0.6, floors={"*": 0.5}, divisor=4)],
)
def test_no_sequence_of_actions_breaks_the_budget(budget):
    rng = np.random.default_rng(0)
    env = game(budget=budget)
    cost = env.wall.cost
    for actions in [[1.0] * len(env.sizes), *rng.uniform(0.2, 1, (20, len(env.sizes)))]:
        played(env, actions)
        assert cost.at(env.counts) <= budget.ratio * cost.dense
        assert bool((env.counts >= env.wall.least).all())
        whole = env.counts == env.sizes
        assert bool((whole | (env.counts % budget.divisor == 0)).all())


def test_the_nearest_count_within_the_wall_which_is_as_far_as_it_can_be():
    wall, cost, limit = game().wall, COST, 0.5 * COST.dense
    rng = np.random.default_rng(1)
    for _ in range(10):
        counts = cost.sizes.clone()
        for k in range(len(counts)):
            most = wall.most(k, counts)
            trial = torch.cat([counts[:k], wall.least[k:]])
            fitting = []
            for c in wall.allowed(k):
                trial[k] = c
                fitting += [c] if cost.at(trial) <= limit else []
            assert most == max(fitting)
            action, size = rng.uniform(0.2, 1), int(cost.sizes[k])
            counts[k] = wall.count(k, action, counts)
            nearest = min(abs(c - action * size) for c in fitting)
            assert abs(int(counts[k]) - action * size) == pytest.approx(nearest)


def test_a_budget_below_the_least_is_refused():
    with pytest.raises(BudgetError, match=r"cannot be reached by AMC: keeping keep_least=0\.2"):
        Wall.of(graph8(), Budget(macs=0.03), 0.2)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_score_is_that_of_the_network_cut_by_surgery(seed):
    model, graph, batches = trained(), graph8(), search_data().ratios
    score = score_of(AMCSettings(reward_examples=5000), model)  # all there are
    generator = torch.Generator().manual_seed(seed)
    counts = (COST.sizes * torch.rand(len(COST.sizes), generator=generator)).long() + 1
    found = score(counts)
    b = importance(model, graph, "l1")
    pruned = prune(model, graph, top_channels(b, counts, graph))
    measured = evaluate(pruned, batches, TASK)
    assert found.score == pytest.approx(measured.score, abs=1e-9)
    assert found.loss == pytest.approx(measured.loss, rel=1e-4)
    assert score.dense.score == pytest.approx(evaluate(model, batches, TASK).score)


def test_as_many_examples_as_asked():
    assert sum(len(x) for x, _ in score_of(AMCSettings(reward_examples=100)).batches) == 100


def test_a_score_with_a_unit_is_compared_with_the_dense_one():
    decibel = Task("t", TASK.loss, lambda outputs, y: len(y) * torch.tensor(30.0), "s", unit="dB")
    score = score_of(AMCSettings(), data=replace(search_data(), task=decibel))
    assert score.dense.score == pytest.approx(30.0)
    assert score.reward(score(COST.sizes)) == pytest.approx(1.0)


def test_weights_that_are_not_finite_are_told():
    broken = Task("t", TASK.loss, lambda outputs, y: outputs.sum() * torch.nan, "accuracy")
    data = replace(search_data(), task=broken)
    with pytest.raises(TrainingError, match="the accuracy of the masked network is not a number"):
        score_of(AMCSettings(), data=data)


@pytest.mark.parametrize("deviation", [0.5, 0.05, 1e-4])
@pytest.mark.parametrize("mean", [0.2, 0.5, 1.0])
def test_truncated_normal_has_the_distribution_it_names(mean, deviation):
    u = np.linspace(0, 0.999, 50)[:, None]
    drawn = truncated_normal(np.full_like(u, mean), deviation, low=0.2, high=1.0, uniform=u)
    assert drawn.min() >= 0.2
    assert drawn.max() <= 1.0
    ends = (0.2 - mean) / deviation, (1.0 - mean) / deviation
    expected = truncnorm.ppf(u, *ends, loc=mean, scale=deviation)
    np.testing.assert_allclose(drawn, expected, atol=1e-6)


def agent_after(episodes: int, settings: AMCSettings, env: PruningEnv) -> Agent:
    with isolated_rngs():
        agent = Agent(env, settings, seed=0)
        agent.play(episodes, lambda done: None, lambda: False)
    return agent


def test_the_agent_learns_what_pays_and_leaves_no_folder_behind(tmp_path, monkeypatch):
    """Of shares uniform on [0.2, 1] the mean is 0.6; the best one is 0.3."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept: list[float] = []

    def reward(counts: Tensor) -> float:
        kept.append(float(counts[0] / COST.sizes[0]))
        return 1 - 4 * (kept[-1] - 0.3) ** 2

    settings = AMCSettings(episodes=170, random_episodes=50, hidden=64, actor_lr=1e-3)
    agent_after(170, settings, game(reward, Budget(macs=1.0)))
    assert abs(np.mean(kept[:50]) - 0.6) < 0.1
    assert abs(np.mean(kept[-20:]) - 0.3) < 0.1
    assert list(tmp_path.iterdir()) == []


def test_two_learning_rates_and_noise_that_decays():
    agent = agent_after(8, SHORT, game())
    rates = [o.param_groups[0]["lr"] for o in (agent.actor.optimizer, agent.critic.optimizer)]
    assert rates == [1e-4, 1e-3]
    assert (agent.tau, agent.gamma) == (0.01, 1.0)
    decisions = agent.decisions
    assert agent.num_timesteps == 8 * decisions
    steps = {int(s["step"]) for s in agent.actor.optimizer.state.values()}
    assert steps == {4 * decisions}  # one for each decision, after the random episodes
    observation = np.zeros((1, 11), dtype=np.float32)
    mean = agent.predict(observation, deterministic=True)[0][0, 0]
    first, again = (agent.predict(observation)[0][0, 0] for _ in range(2))
    agent.num_timesteps += 1
    assert first == again != agent.predict(observation)[0][0, 0]  # a function of the decision
    agent.num_timesteps += 200 * decisions
    later = agent.predict(observation)[0][0, 0]
    assert 0 < abs(later - mean) < 1e-3 < abs(first - mean)  # 0.5 * 0.95^4, 0.5 * 0.95^204


def test_the_first_episodes_are_uniform():
    seen: list[float] = []
    env = game()
    step = env.step
    env.step = lambda action: (seen.append(float(action[0])), step(action))[1]  # type: ignore[assignment]
    agent_after(60, AMCSettings(episodes=60, random_episodes=60), env)
    quantiles = (np.sort(seen) - 0.2) / 0.8
    distance = np.abs(quantiles - (np.arange(len(seen)) + 0.5) / len(seen)).max()
    assert distance < 1.36 / len(seen) ** 0.5  # Kolmogorov and Smirnov, 5 %


@cache
def searched():
    model = trained()
    return model, allocate("amc", model, config=search_config(amc=SHORT))


def test_the_best_episode_is_taken_and_the_weights_stay():
    model, found = searched()
    torch.testing.assert_close(model.state_dict(), trained().state_dict(), rtol=0, atol=0)
    assert found.met
    assert len(found.updates) == found.notes["amc_episodes"] == 12
    assert all(u.cost <= 0.5 + 1e-9 for u in found.updates)
    assert all(0 < u.figures["loss"] < 100 for u in found.updates)
    assert found.trials == 1
    assert found.epochs == ()
    assert found.seconds > 0
    best = found.updates[found.notes["amc_best_episode"] - 1].keep_ratios
    assert tuple(found.keep_ratios.tolist()) == best
    tried = (found.keep_ratios * graph8().sizes).round().long()
    assert bool((found.counts >= tried).all())  # slack is spent
    assert found.notes["amc_best_reward"] == pytest.approx(score_of(SHORT)(tried).score)


def test_interrupted_and_resumed_is_identical_and_keeps_its_number_format(monkeypatch, tmp_path):
    path, bf16 = tmp_path / "search.pt", Precision("bf16", channels_last=True)
    config = search_config(amc=SHORT, precision="auto", channels_last="auto")
    monkeypatch.setattr(amc_reward, "choose_precision", lambda *_, **__: bf16)
    whole = allocate("amc", trained(), config=config)
    for n, saved in ((2, 0), (5, 3), (6, 6)):
        word = rf"{saved} of 12 episodes are saved: the same call resumes from .*search\.pt"
        with pytest.raises(KeyboardInterrupt, match=word):
            allocate("amc", trained(), config=config, checkpoint=path, on_step=stop_after(n))
        if saved:  # from now on the choice would be another
            monkeypatch.setattr(amc_reward, "choose_precision", lambda *_, **__: FP32)
    resumed = allocate("amc", trained(), config=config, checkpoint=path)
    assert [repr(u) for u in resumed.updates] == [repr(u) for u in whole.updates]
    assert torch.equal(resumed.counts, whole.counts)
    assert resumed.notes == whole.notes
    again = allocate("amc", trained(), config=config, checkpoint=path)  # nothing left to do
    assert [repr(u) for u in again.updates] == [repr(u) for u in whole.updates]
    with pytest.raises(TrainingError, match="different run"):
        allocate("amc", trained(), Budget(macs=0.4), config, checkpoint=path)


def test_stopped_and_interrupted_without_a_checkpoint():
    config = search_config(amc=SHORT)
    found = allocate("amc", trained(), config=config, on_step=lambda update: update.step == 4)
    assert len(found.updates) == 5
    assert found.notes["stopped"] is True
    assert found.met
    with pytest.raises(KeyboardInterrupt, match="after 2 episodes; without a checkpoint"):
        allocate("amc", trained(), config=config, on_step=stop_after(2))


def test_the_seed_decides_and_the_caller_s_random_numbers_stay():
    trained()  # trains when it is first asked for
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    config = search_config(amc=SHORT)
    runs = [allocate("amc", trained(), config=config, seed=seed) for seed in (0, 1)]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert [repr(u) for u in runs[0].updates] == [repr(u) for u in searched()[1].updates]
    assert runs[0].updates[0].keep_ratios != runs[1].updates[0].keep_ratios


def test_random_weights_are_refused():
    with pytest.raises(ConfigError, match=r"amc starts from a trained network.*warmup_epochs=2"):
        allocate("amc", fresh(), config=search_config(warmup_epochs=2))


def test_random_episodes_are_some_of_all():
    with pytest.raises(ValidationError, match="random_episodes=5 is more than episodes=4"):
        AMCSettings(episodes=4, random_episodes=5)


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"also": {"params": 0.5}}, "amc follows one resource"), ({"ratio": 0.03}, "keep_least")],
)
def test_budgets_it_cannot_meet_are_refused_before_anything_is_trained(tmp_path, asked, words):
    with pytest.raises(BudgetError, match=words):
        run(configure("tiny", method="amc", **asked), tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_tokens_are_no_image():
    layers = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)
    model = nn.Sequential(*layers)
    table = layer_table(model, trace(model, torch.zeros(2, 5, 6)))
    assert table[:, 3:].tolist() == [[1.0] * 4] * 2  # height, width, stride, kernel


def test_its_packages_are_asked_for_at_once(monkeypatch):
    monkeypatch.setattr(amc, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gymnasium and stable_baselines3: .*dsa_core\[amc\]"):
        amc.check_amc(graph8(), Budget(macs=0.5), search_config())
