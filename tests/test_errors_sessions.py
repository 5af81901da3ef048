"""Which graph, which session, which value: mistakes at run time, from any thread and after a fork."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest
from error_testing import Programs, check, check_form

import graphc as gc

broken = Programs()


def variable(value=(1.0, 2.0), name="w"):
    return gc.Variable(np.asarray(value, "float32"), name=name)


# --- what can't be fetched


@broken(
    gc.FetchError, "'loss' is a value (ndarray), not a tensor", "loss is assigned at", "keep tensor and value apart"
)
def rebound_by_a_run():
    w = variable()
    with gc.Session() as session:
        loss = (w * w).sum()
        loss = session.run(loss)
        return session.run(loss)  # <-


@broken(gc.FetchError, "'step' is a value (int)", "not a tensor of the graph")
def a_number():
    w = variable()
    with gc.Session() as session:
        step = 12345
        return session.run([w, step])  # <-


@broken(gc.FetchError, "'train' is a value (NoneType)", "rebound to the result of an earlier run")
def an_update_rebound_to_its_result():
    w = variable()
    train = gc.optim.SGD(lr=0.1).minimize((w * w).sum())
    with gc.Session() as session:
        train = session.run(train)
        return session.run(train)  # <-


@broken(gc.FetchError, "can't fetch Linear", "fetch tensors, their names or updates")
def a_module():
    layer = gc.nn.Linear(2, 1)
    with gc.Session() as session:
        return session.run({"layer": layer})  # <-


@broken(gc.FetchError, "can't fetch set", "lists, tuples, dicts or dataclasses")
def a_set():
    w = variable()
    with gc.Session() as session:
        return session.run({w})  # <-


@broken(gc.GraphError, "no node named 'encoder/wieght'", "did you mean 'encoder/weight'?")
def a_misspelt_name():
    with gc.scope("encoder"):
        weight = variable(name="weight")
    with gc.Session() as session:
        return session.run([weight, "encoder/wieght"])  # <-


@broken(gc.GraphError, "no node named", "'weight'")
def a_name_without_its_scope():
    with gc.scope("encoder"):
        weight = variable(name="weight")
    with gc.Session() as session:
        return session.run([weight, "weight"])  # <-


# --- which graph


@broken(gc.GraphError, "'v' belongs to graph 'second', this session runs 'first'", "v was made at", "gc.Session(graph)")
def a_tensor_of_another_graph():
    with gc.Graph("first"):
        w = variable()
    with gc.Graph("second"):
        v = variable(name="v")
    with gc.Session() as session:
        session.run(w)
        return session.run(v)  # <-


@broken(gc.GraphError, "'v' belongs to graph 'second'", "'first'", "v was made at")
def fetches_of_two_graphs():
    with gc.Graph("first"):
        w = variable()
    with gc.Graph("second"):
        v = variable(name="v")
    with gc.Session() as session:
        return session.run([w, v])  # <-


@broken(gc.GraphError, "'v' belongs to graph 'second', this session runs 'first'")
def an_update_of_another_graph():
    with gc.Graph("first") as first:
        pass
    with gc.Graph("second"):
        bump = variable(name="v").assign_add(1.0)
    with gc.Session(first) as session:
        return session.run(bump)  # <-


@broken(gc.ArgumentError, "<add: float32[2]> is no variable", "sess.run(x) computes a tensor")
def reading_what_is_no_variable():
    w = variable()
    with gc.Session() as session:
        return session[w + 1]  # <-


# --- sessions


@broken(gc.SessionError, "this session is closed", "gc.Session()")
def a_closed_session():
    w = variable()
    with gc.Session() as session:
        session.run(w)
    return session.run(w)  # <-


@broken(gc.ArgumentError, "device 'gpu'", "'reference'", "did you mean 'cpu'?")
def an_unknown_device():
    return gc.Session(device="gpu")  # <-


@broken(gc.ArgumentError, "'simplfy'", "did you mean 'simplify'?")
def an_unknown_switch():
    return gc.Session(disable=("simplfy",))  # <-


@broken(gc.ArgumentError, "seed", "-1")
def a_negative_seed():
    return gc.Session(seed=-1)  # <-


@broken(gc.FeedError, "'w' has 3 on axis 0, expected 2")
def a_value_of_another_shape():
    w = variable()
    with gc.Session() as session:
        session[w] = np.ones(3)  # <-


@broken(gc.StateError, "variable 'w'", "two different values in one run", "w.assign(w + 1)", "combine the values")
def two_updates_of_one_variable():
    w = variable()
    first = w.assign(w + 1)
    second = w.assign(w + 2)  # <-
    with gc.Session() as session:
        return session.run([first, second])


@broken.each
def test_message(program):
    check(program)


def test_both_updates_of_one_variable_are_told_with_their_lines():
    with gc.Graph(), gc.Session() as session:
        w = variable()
        first = w.assign(w + 1)
        second = w.assign_sub(w)
        with pytest.raises(gc.StateError) as caught:
            session.run([first, second])
    text = str(caught.value)
    check_form(text)
    places = ("first = w.assign(w + 1)", "second = w.assign_sub(w)", "session.run([first, second])")
    assert [place for place in places if place not in text] == []


# --- any thread, any process


def test_a_session_does_not_care_which_thread_runs_it():
    """No thread enters the graph: a node carries its own, and the session knows the names."""
    with gc.Graph():
        w = variable()
        y = (w * 3).sum()
    found, errors = [], []
    with gc.Session() as session:
        session.run(y)

        def work():
            try:
                found.append((float(session.run(y)), session.run("w").tolist(), session[w].tolist()))
            except gc.GraphcError as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert errors == [] and found == [(9.0, [1.0, 2.0], [1.0, 2.0])] * 8


def test_threads_that_build_the_same_expression_share_it():
    with gc.Graph() as graph:
        w = variable()
        kept = [gc.tanh(w * 2) + 1]
        before = len(graph)
        threads = [threading.Thread(target=lambda: kept.append(gc.tanh(w * 2) + 1)) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(set(kept)) == 1 and len(graph) == before


def test_a_session_can_be_used_after_a_fork():
    with gc.Graph():
        w = variable()
        bump = w.assign_add(1.0)
        draw = gc.random.uniform((2,))
    with gc.Session(seed=1) as session:
        session.run([bump, draw])
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)

        def child():
            session.run(bump)
            try:
                session.run(3)
            except gc.FetchError as error:
                sender.send((session.run([w, draw]), str(error)))

        process = context.Process(target=child)
        process.start()
        assert receiver.poll(30)
        (value, drawn), message = receiver.recv()
        process.join(30)
        assert process.exitcode == 0
        assert value.tolist() == [3, 4] and session.run(w).tolist() == [2, 3]
        assert drawn.tolist() == session.run(draw).tolist()
        assert "is a value (int)" in message


def test_the_same_tensor_may_be_fed_and_fetched():
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("n",))
        assert session.run([x, x + 1], {x: [1, 2]})[0].tolist() == [1, 2]
