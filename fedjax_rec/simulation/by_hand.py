"""A simulation by hand: steps, evaluations, parameters, and lists for users."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Tree
from fedjax_rec.evaluation.per_user import PerUser
from fedjax_rec.simulation import parameters as params
from fedjax_rec.simulation import recommend as ranking
from fedjax_rec.simulation.loop import Event, diverged_in
from fedjax_rec.simulation.messages import without_state
from fedjax_rec.simulation.newcomer import newcomer
from fedjax_rec.simulation.parameters import Parameters

Id = str | int
"""An id as spelled in the source; an integer stands for its decimal digits."""


class ByHand:
    """The part of a simulation for steps by hand and for the use of its model.

    Attributes:
        selected: parameters of the round selected so far; `None` before a test
            evaluation, after `restore`, and for personal parameters on disk.
    """

    selected: Parameters | None

    def step(self: Any, rounds: int = 1) -> list[Event]:
        """Runs rounds, and the evaluations that are due on the way, as `run` does.

        Steps of any length, and a `run` after them, give the same bits as one `run`:
        history and selection go on.

        Args:
            rounds: number of rounds.

        Returns:
            The events.

        Raises:
            ValueError: `rounds` is no positive integer, or the run has fewer left.
        """
        if type(rounds) is not int or rounds < 1:
            raise ValueError(f"step({rounds!r}): expected a number of rounds, from 1")
        done = int(self.state.round)
        if rounds > self.rounds - done:
            raise ValueError(
                f"step({rounds}): {done} of {self.rounds} rounds are done. Set "
                "sim.rounds to run more"
            )
        return list(self.events(until=done + rounds))

    def evaluate(self: Any, part: str) -> dict[str, float]:
        """Means and dispersion over the users of `"val"` or `"test"`.

        It leaves the selection as it is: only evaluations that are due select a round.

        Raises:
            ValueError: there is no such part, or it is not evaluated.
        """
        if part not in self.targets:
            parts = ", ".join(map(repr, self.targets))
            raise ValueError(f"part {part!r} is not evaluated: expected one of {parts}")
        return self.evaluator.evaluate(self, part)

    def users(self: Any) -> PerUser | None:
        """Metrics of each test user at the round selected so far.

        `None` before the test is evaluated, and after `restore` until it is again.
        """
        return self.evaluator.users(self, "test")

    def rmse(self: Any, part: str) -> float:
        """Root mean squared error of a part's ratings, for explicit feedback."""
        return self.evaluator.rmse(self, part)

    @property
    def shared(self: Any) -> dict[str, Tree]:
        """The server's parameters by group, as NumPy arrays that stay valid.

        A table is its `[I, ...]` (or `[U, ...]`) array, in the order of the items (or
        users) of `split.train`.
        """
        return as_arrays(params.host_copy(self.state.shared))

    def client(self: Any, user: Id) -> dict[str, Tree]:
        """The personal parameters of a user's client, as NumPy arrays that stay valid.

        Raises:
            ValueError: there is no such user, or no client serves it.
        """
        client = self.client_of_user[self.places([user])][0]
        if client == self.data.num_clients:
            raise ValueError(f"user {user!r} has no training data, and so no client")
        personal = without_state(self.personal)
        return as_arrays(jax.tree.map(lambda x: np.array(x[client]), personal))

    def recommend(
        self: Any,
        user: Id | Sequence[Id] | None = None,
        k: int = 10,
        *,
        history: Sequence[Id] | None = None,
        exclude_seen: bool = True,
        current: bool = False,
    ) -> Any:
        """The items that the model of the selected round ranks first.

        Args:
            user: id of a user as in the source, or a sequence of ids.
            k: items per user; a user with fewer items left gets fewer.
            history: in place of `user`, ids of the items of a new user, the latest
                last. The protocol has to fit users on what they show (`evaluated` is
                `reconstructed` or `tuned`), or the model has to read histories only.
            exclude_seen: leave out the items that the user has in train, in validation
                or among the shown interactions, as the test's ranking does; or those
                of `history`.
            current: use the current parameters in place of the selected ones.

        Returns:
            A list of `Recommendation`s, best first; for a sequence of users a list of
            such lists, in their order.

        Raises:
            ValueError: an id or `k` is not valid, no round is selected, or the system
                cannot rank for a new user.
        """
        num_items = self.split.train.num_items
        if not 1 <= k <= num_items:
            raise ValueError(f"k={k}: expected 1 to {num_items}, the number of items")
        if (user is None) == (history is None):
            raise ValueError("expected either user=..., or history=[...] of a new user")
        if jax.process_count() > 1:
            raise ValueError("recommend works in one process: load the run's folder")
        audiences, frozen, several = self.audiences, self.frozen, _is_several(user)
        if history is not None:
            items = self.item_places(history)
            users = np.zeros(1, np.int32)
            seen = items[None]
        else:
            users = self._served(user if several else [user])
            seen = ranking.seen_items(self, users) if exclude_seen else None
        if history is not None:
            audience, frozen = newcomer(self, items)
            audiences, seen = [audience], seen if exclude_seen else None
        if seen is None:
            seen = np.full((len(users), 1), num_items, np.int32)
        with self._at(current):
            ranked = ranking.rank(self, audiences, users, seen, k, frozen)
        lists = ranking.named(self, ranked)
        return lists if several else lists[0]

    @contextlib.contextmanager
    def _at(self: Any, current: bool) -> Iterator[None]:
        if current:
            yield
            return
        if self.selected is None:
            if since := diverged_in(self.history):
                raise ValueError(
                    f"the run diverged in round {since}, before any round was "
                    "selected: its parameters are not finite, and rank nothing"
                )
            raise ValueError(
                "no parameters of a selected round are at hand: none was evaluated on "
                "the test part since the simulation was built or restored, or personal "
                "parameters lie on disk. Pass current=True for the current parameters"
            )
        with params.held(self, self.selected):
            yield

    def served_users(self: Any) -> list[str]:
        """Ids of the users that `recommend` has lists for."""
        ids = self.split.train.users.ids
        everyone = np.arange(len(ids))
        served = [audience.served(everyone) for audience in self.audiences]
        return [str(ids[user]) for user in np.unique(np.concatenate(served)).tolist()]

    def places(self: Any, users: Sequence[Id]) -> np.ndarray:
        """`[E]` int32 positions of user ids in `split.train.users`.

        Raises:
            ValueError: an id is unknown.
        """
        return _find(self._user_places, users, "user", self.split.train.name)

    def item_places(self: Any, items: Sequence[Id]) -> np.ndarray:
        """`[E]` int32 positions of item ids in `split.train.items`.

        Raises:
            ValueError: an id is unknown, repeated, or there is none.
        """
        found = _find(self._item_places, items, "item", self.split.train.name)
        if len(np.unique(found)) < len(found):
            raise ValueError("an item is repeated: expected each item once")
        return found

    @functools.cached_property
    def _user_places(self: Any) -> dict[str, int]:
        return places_of(self.split.train.users.ids)

    @functools.cached_property
    def _item_places(self: Any) -> dict[str, int]:
        return places_of(self.split.train.items.ids)

    def _served(self: Any, users: Sequence[Id]) -> np.ndarray:
        """Positions of users; each has to be served by a client."""
        found = self.places(users)
        served = np.zeros(len(found), bool)
        for audience in self.audiences:
            served[audience.served(found)] = True
        if not served.all():
            first = list(users)[int(np.flatnonzero(~served)[0])]
            raise ValueError(
                f"user {first!r} has no training data and is not evaluated, so no "
                "client serves it. Pass history=[...] with items of the user"
            )
        return found


def places_of(ids: Sequence[Any]) -> dict[str, int]:
    """Position of each id."""
    return {str(id_): place for place, id_ in enumerate(ids)}


def as_arrays(tree: Tree) -> Any:
    """The tree with each table replaced by its array."""
    return jax.tree.map(
        lambda x: x.values if rows.is_table(x) else x, tree, is_leaf=rows.is_table
    )


def _is_several(user: Any) -> bool:
    return user is not None and not isinstance(user, str | int | np.generic)


def _find(
    places: dict[str, int], ids: Sequence[Id], kind: str, data: str
) -> np.ndarray:
    names = [str(id_) for id_ in ids]
    if not names:
        raise ValueError(f"expected at least one {kind} id")
    unknown = [name for name in names if name not in places]
    if unknown:
        shown = ", ".join(map(repr, list(places)[:3]))
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(
            f"{kind} {unknown[0]!r}{more} not found in {data!r}: expected one of its "
            f"{len(places):,} {kind} ids, such as {shown}"
        )
    return np.array([places[name] for name in names], np.int32)
