"""The extractor's process with pages on which it hangs, dies, eats memory or chatters."""

import os
import signal
import sys
import time

from gpt2lab.corpus import extractor

good = extractor._trafilatura


def bad(page: str, job: extractor.Job) -> str | None:
    if "HANG" in page:
        time.sleep(3600)
    if "CRASH" in page:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "EAT" in page:
        bytearray(64 << 30)
    if "CHATTER" in page:
        print("a library that prints " * 1000, flush=True)
        os.write(1, b"and writes to file descriptor 1" * 1000)
    if "RAISE" in page:
        raise KeyError("what a parser may raise")
    if "DEEP" in page:
        return bad(page, job)
    return good(page, job)


extractor._trafilatura = bad
extractor.main(int(sys.argv[1]))
