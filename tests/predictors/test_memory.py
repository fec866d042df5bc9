"""Where a pipeline lies, with and without a GPU."""

from predictors.memory import memory_policy


def test_a_gpu_holds_each_part_only_while_it_works():
    policy = memory_policy(cuda_available=True)
    assert (policy.device, policy.model_offload, policy.vae_tiling) == ("cuda", True, True)
    assert policy.dtype is None


def test_a_cpu_computes_in_float32():
    policy = memory_policy(cuda_available=False)
    assert (policy.device, policy.model_offload, policy.vae_tiling) == ("cpu", False, True)
    assert policy.dtype == "float32"
