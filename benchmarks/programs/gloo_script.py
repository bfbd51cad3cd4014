"""What torchrun starts: a script that imports torch and joins a gloo group.

The barrier costs a millisecond; without it the first worker to end can break the group while another is still joining.
"""

import torch.distributed

torch.distributed.init_process_group("gloo")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
