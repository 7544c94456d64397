"""Work beside a test."""

import threading


class Background:
    """A thread that does `work` until the `with` block is left; `work` looks at `ended`."""

    def __init__(self):
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self):
        raise NotImplementedError

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
