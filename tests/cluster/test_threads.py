"""Each role computes with the threads that it was given, whatever the others of its process use."""

import threading

import torch

from openwafer.cluster._threads import use_threads


def test_a_threads_count_holds_against_one_that_another_thread_sets_before_it_computes():
    """torch gives a new thread, at its first operator, the count that was set last anywhere."""
    before = torch.get_num_threads()
    is_set, disturbed = threading.Event(), threading.Event()
    found: list[int] = []

    def system() -> None:
        use_threads(2)
        is_set.set()
        disturbed.wait(10)
        torch.ones(8).add_(1)
        found.append(torch.get_num_threads())

    def memoryx() -> None:
        is_set.wait(10)
        use_threads(1)
        disturbed.set()

    threads = [threading.Thread(target=target) for target in (system, memoryx)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(before)

    assert found == [2]


def test_fit_leaves_the_number_of_threads_as_it_was(tmp_path):
    """The user's program may compute after its training."""
    import openwafer as ow

    torch.manual_seed(0)
    before = torch.get_num_threads()
    data = [(torch.randn(4, 8), torch.randint(2, (4,)))]
    trainer = ow.Trainer(
        torch.nn.Linear(8, 2),
        loss=torch.nn.functional.cross_entropy,
        optimizer=ow.AdamW(lr=1e-3),
        cluster=ow.LocalCluster(threads=before + 1),
        folder=tmp_path,
    )

    trainer.fit(data, steps=1)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()

    assert torch.get_num_threads() == before
    assert found == [before]
