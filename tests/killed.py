"""Runs `progdist.main` and kills or stops it at a given place.

  python -m tests.killed PLACE NUMBER [--signal=SIGTERM] [--mutant=NAME] -- FLAGS

NUMBER is a global step for update, write, seal, row and terminated; it counts from 1
otherwise. The signal is SIGKILL if none is given.
A mutant loses a part of every checkpoint when it is restored.
"""

import itertools
import os
import resource
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from progdist import main
from progdist.checkpoint import Checkpoints, digests, models
from progdist.errors import exit_with
from progdist.trainer import state_machine, step
from progdist.trainer.phase_end import PhaseEnd
from progdist.trainer.preemption import Interrupt, Preemption
from progdist.trainer.state import make_optimizer
from progdist.workdir import lease
from progdist.workdir.bucket import Bucket
from progdist.workdir.journal import Journal

UPDATES = [0]  # done by this process, or before it
STORES = []  # its checkpoints
SIGNALS = [signal.SIGKILL]  # the last one ends it


def die():
    os.kill(os.getpid(), SIGNALS[-1])


def is_killed():
    """Whether it ends on the spot, as in the middle of a row."""
    return SIGNALS[-1] == signal.SIGKILL


def die_soon(seconds):
    """While the main thread goes on with what it is about to begin."""
    threading.Timer(seconds, die).start()


def before(owner, name, act):
    """Lets `act` see the arguments of each call first."""
    original = getattr(owner, name)

    def called(*args, **kwargs):
        act(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, called)


def counted(number, act):
    """Acts at the call of that number."""
    calls = itertools.count(1)
    return lambda *args, **kwargs: next(calls) == number and act(*args, **kwargs)


def at_update(number, act=die):
    """Once the update is done, and the last checkpoint before it is complete."""
    make = step.make_train_step
    before(Checkpoints, "save", lambda store, *_: STORES.append(store))

    def make_killing(*args, **settings):
        train_step = make(*args, **settings)

        def killing(state, round_, batch):
            result = jax.block_until_ready(train_step(state, round_, batch))
            UPDATES[0] += 1
            if UPDATES[0] == number:
                for store in STORES:
                    store.wait()
                act()
            return result

        return killing

    step.make_train_step = make_killing


def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)


def at_terminated(number):
    """Asked to stop after an update, whose successor is the last one then."""
    at_update(number, terminate)


def at_hang(number):
    """Alive, and heard of, but going no further."""
    at_update(number, threading.Event().wait)


def at_full(number):
    """With a disk that takes no more from this process."""
    limits = 0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    at_update(number, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))


def at_starting(_):
    """Asked to stop before the run listens to signals."""
    before(Interrupt, "__enter__", terminate)


def at_bug(number):
    """An error in the program."""
    at_update(number, lambda: {}["bug"])


def at_terminated_sampling(number):
    """Asked to stop before a batch of samples."""
    before(
        Preemption, "check", counted(number, lambda *_: terminate() or time.sleep(0.2))
    )


def at_compilation(number):
    """In that of the base step, 1, or of the rounds', 2."""
    make, numbers = step.make_train_step, itertools.count(1)

    def make_killing(*args, **settings):
        train_step, here = make(*args, **settings), next(numbers)

        def killing(*inputs):
            if here == number:
                die_soon(0.05)
            return train_step(*inputs)

        return killing

    step.make_train_step = make_killing


def at_write(number):
    """While Orbax writes."""

    def act(_, global_step, __):
        if global_step == number:
            time.sleep(0.01)
            die()

    before(Checkpoints, "_complete", act)


def at_seal(number):
    """After the commit, before the manifest."""
    before(digests, "write_manifest", lambda path: path.name == str(number) and die())


def at_row(number):
    """With half of the row on disk."""

    def act(journal, row):
        if row.global_step == number:
            if is_killed():
                with journal._metrics.open("a") as file:
                    file.write('{"global_step": 1')
            die()

    before(Journal, "metrics", act)


def at_evaluation(number):
    """With half of the row on disk."""

    def act(journal, *_):
        if is_killed():
            with journal._evaluations.open("a") as file:
                file.write('{"metric": "F')
        die()

    before(Journal, "evaluation", counted(number, act))


def at_model(number):
    """While a finished phase's model is written."""

    class Killing:
        def __getattr__(self, name):
            return getattr(ocp, name)

    models.ocp = Killing()
    save = counted(number, lambda *_, **__: die_soon(0.02))
    models.ocp.save = lambda *args, **kwargs: (save(), ocp.save(*args, **kwargs))


def at_swap(number):
    before(state_machine, "swap", counted(number, lambda *_, **__: die()))


def at_push(number):
    """Before an object is written to a bucket, the lock aside."""
    act = counted(number, lambda *_: die())
    before(Bucket, "upload", lambda _, name, *__: name != "lock" and act())


PLACES = {
    "compilation": at_compilation,
    "update": at_update,
    "write": at_write,
    "seal": at_seal,
    "row": at_row,
    "evaluation": at_evaluation,
    "model": at_model,
    "swap": at_swap,
    "push": at_push,
    "hang": at_hang,
    "full": at_full,
    "bug": at_bug,
    "starting": at_starting,
    "terminated": at_terminated,
    "terminated_sampling": at_terminated_sampling,
}


def losing(name):
    """Restores as if the part had never been in the checkpoint."""
    restore = Checkpoints.restore_newest

    def lost(self, template_of):
        found = restore(self, template_of)
        if found is None:
            return None
        tree, facts = found
        state = tree["state"]
        copy = jax.tree.map(jnp.copy, state["params"])
        if name == "ema" and state["ema_params"] is not None:
            state["ema_params"] = copy
        if name == "optimizer":
            state["opt_state"] = make_optimizer().init(state["params"])
        if name == "teacher" and facts["phase"]:
            tree["teacher_params"] = copy
        return tree, facts

    Checkpoints.restore_newest = lost


def remember_start():
    restore = Checkpoints.restore_newest

    def remembered(self, template_of):
        found = restore(self, template_of)
        UPDATES[0] = found[1]["global_step"] if found else 0
        return found

    Checkpoints.restore_newest = remembered


if __name__ == "__main__":
    split = sys.argv.index("--")
    words, sys.argv[1:] = sys.argv[1:split], sys.argv[split + 1 :]
    remember_start()
    # A killed owner is waited for; the next start would do so for a minute.
    lease.LEASE_SECONDS, lease.RENEW_SECONDS = 4.0, 0.5
    PhaseEnd.conclude = lambda *_: None  # the figures: nothing of them is compared
    for word in words[2:]:
        option, _, value = word.partition("=")
        if option == "--signal":
            SIGNALS.append(signal.Signals[value])
        else:
            losing(value)
    if words[0] != "nowhere":
        PLACES[words[0]](int(words[1]))
    exit_with(main.main, sys.argv)
