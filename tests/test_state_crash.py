"""A process that is killed while it saves: the file is the one before or the new one, and training goes on from it."""

import os

import pytest
from state_testing import output_of

KILLED = """
import os, signal, sys
from pathlib import Path

import graphc as gc
import graphc.files

folder = Path({folder!r})
path = folder / "model.safetensors"
STEPS = 4

w = gc.Variable(gc.nn.init.normal(), name="w", shape=(5,))
done = gc.Variable(0, name="done", dtype="int64")
noise = gc.dropout(w, 0.5) * gc.random.normal((5,))
update = gc.group(gc.optim.Adam(lr=0.1).minimize((noise**2).sum()), done.assign_add(1))


def train(session):
    while int(session[done]) < STEPS:
        session.run(update)
        session.save(path)
    return session[w].tobytes()


class Killing:
    # Stands for the module `os` where files are written: the process dies instead of its n-th call.
    def __init__(self, at):
        self.left = at

    def __getattr__(self, name):
        found = getattr(os, name)
        if not callable(found):
            return found

        def call(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return found(*args, **kwargs)

        return call


def child(at):
    graphc.files.os = Killing(at)
    with gc.Session(seed=1) as session:
        train(session)
    os._exit(0)


with gc.Session(seed=1) as session:
    unbroken = train(session)
path.unlink()
kills = resumed = 0
while True:
    process = os.fork()
    if not process:
        child(kills)
    status = os.waitpid(process, 0)[1]
    if not os.WIFSIGNALED(status):
        break
    kills += 1
    with gc.Session(seed=99) as session:
        if path.exists():
            session.load(path)
            resumed += 1
        else:
            session = gc.Session(seed=1)
        before = int(session[done])
        assert train(session) == unbroken, (kills, before)
    path.unlink()
assert os.waitstatus_to_exitcode(status) == 0
print(kills, resumed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_training_resumed_after_a_kill_at_any_step_of_saving_equals_one_that_was_never_killed(tmp_path):
    kills, resumed = map(int, output_of(KILLED.format(folder=str(tmp_path)), PYTHONWARNINGS="ignore").split())
    assert kills >= 20 and kills - resumed < kills / 2
