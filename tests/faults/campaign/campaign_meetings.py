"""What the ranks of a test do, and when its fault strikes one of them.

Copied beside the victims, so it knows nothing of the campaign.
"""

import threading
import time

import campaign_strikes
import torch
import torch.distributed as dist

#: Meetings of the ranks in each of set-up, body and teardown; seconds between two.
MEETINGS, PAUSE = 15, 0.01


class Meetings:
    """Those of one rank, and the fault that strikes it, if any."""

    def __init__(self, entry, rank):
        self.strike = getattr(campaign_strikes, entry["fault"]) if entry["rank"] == rank else None
        self.step, self.count = entry["step"], 0
        if self.strike and self.step is None:
            threading.Timer(entry["moment"], self.strike).start()

    def hold(self):
        """Computes a little and waits for the others, some times over."""
        for _ in range(MEETINGS):
            if self.strike and self.count == self.step:
                self.strike()
            self.count += 1
            time.sleep(PAUSE)
            ones = torch.ones(64, dtype=torch.float32)
            dist.all_reduce(ones)
            assert ones.sum() == 64 * dist.get_world_size()
