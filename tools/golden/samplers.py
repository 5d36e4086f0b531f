"""Golden trajectories of the samplers: the official loops with a network of one line.

The network is affine in x with polynomials of the timestep as coefficients (`network` below), so
every program evaluates it to the last bits of f64. The official loops run in f64 with unrounded
tables (rounded to f32 where they are stored); the f32 run of the same loop tells what f32 arithmetic may differ by (`f32_noise`).
"""

import sys
import types

import common
import numpy as np
import torch

SHAPE = (4, 2, 3)


def network(x, timestep):
    """(eps, variance) at timestep 0..=999."""
    s = torch.as_tensor(timestep).to(x.dtype) / 1000
    s = s.reshape(-1, *[1] * (x.ndim - 1))
    eps = (0.2 + 0.75 * s) * x + (0.1 - 0.3 * s * s)
    return eps, 0.5 - s + 0.1 * x


def normals(case, count):
    """The start and one noise a step, f32."""
    rng = np.random.default_rng(common.fnv1a64(case))
    return rng.standard_normal((count, 1, *SHAPE)).astype(np.float32)


class Replay:
    """torch.randn_like for the official loops: hands out given noises in the order they are drawn."""

    def __init__(self, noises, dtype):
        self.noises = [torch.from_numpy(n).to(dtype) for n in noises]

    def __call__(self, x):
        return self.noises.pop(0)


def ancestral(official, kind, dtype, steps, start, noises, eta=None):
    """gaussian_diffusion's loops: all samples of the trajectory."""
    variance = kind != "iddpm_fixed"
    diffusion = official.iddpm.IDDPM(str(steps), learn_sigma=variance)

    def model(x, timestep):
        eps, v = network(x, timestep)
        return torch.cat([eps, v], dim=1) if variance else eps

    shape = start.shape
    if kind == "ddim":
        loop = diffusion.ddim_sample_loop_progressive(model, shape, start, False, device="cpu", eta=eta)
    else:
        loop = diffusion.p_sample_loop_progressive(model, shape, start, False, device="cpu")
    return [out["sample"] for out in loop]


def dpm(official, dtype, steps, start):
    m = official.dpm
    betas = torch.tensor(official.gaussian.get_named_beta_schedule("linear", 1000))
    ns = m.NoiseScheduleVP(schedule="discrete", betas=betas, dtype=dtype)
    model = m.model_wrapper(lambda x, t: network(x, t)[0], ns, guidance_type="uncond")
    solver = m.DPM_Solver(model, ns, algorithm_type="dpmsolver++")
    kwargs = dict(order=2, skip_type="time_uniform", method="multistep")
    _, states = solver.sample(start, steps=steps, return_intermediate=True, **kwargs)
    return states[1:]


def sde(official, dtype, steps, start, noises):
    """The updates of diffusers at the times and orders of DPMS; see src/diffusion/dpm_solver.rs."""
    from diffusers import DPMSolverMultistepScheduler

    ns = official.dpm.NoiseScheduleVP(
        schedule="discrete", betas=torch.tensor(official.gaussian.get_named_beta_schedule("linear", 1000)), dtype=dtype
    )
    times = torch.linspace(1.0, 1.0 / 1000, steps + 1)
    alphas, sigmas = ns.marginal_alpha(times), ns.marginal_std(times)
    scheduler = DPMSolverMultistepScheduler(solver_order=2)
    scheduler.sigmas = sigmas / alphas
    x, outputs, states = start, [], []
    for k in range(steps):
        last = k + 1 == steps
        scheduler.config.algorithm_type = "dpmsolver++" if last else "sde-dpmsolver++"
        scheduler._step_index = k
        eps, _ = network(x, (times[k] - 1e-3) * 1000)
        outputs.append((x - sigmas[k] * eps) / alphas[k])
        noise = None if last else torch.from_numpy(noises[k]).to(dtype)
        if k == 0 or (last and steps < 10):
            x = scheduler.dpm_solver_first_order_update(outputs[-1], sample=x, noise=noise)
        else:
            x = scheduler.multistep_dpm_solver_second_order_update(outputs[-2:], sample=x, noise=noise)
        states.append(x)
    return states


def sa(official, dtype, steps, start, eta):
    """SASolverSampler.sample, which insists on CUDA, on the CPU. The states it yields are the
    corrected ones; the network saw the predicted ones, so those are what is kept, then the result."""
    m = official.sa
    alphas_cumprod = torch.tensor(np.cumprod(1 - official.gaussian.get_named_beta_schedule("linear", 1000)))
    ns = m.NoiseScheduleVP("discrete", alphas_cumprod=alphas_cumprod.to(dtype), dtype=dtype)
    seen = []

    def model(x, t):
        seen.append(x)
        return network(x, t)[0]

    solver = m.SASolver(m.model_wrapper(model, ns, guidance_type="uncond"), ns, algorithm_type="data_prediction")
    zero = torch.zeros(())  # the official 0 is a Python number, which torch.exp does not take at tau**2 * h = 0
    tau = lambda t: (zero + eta) if 0.2 <= t <= 0.8 else zero
    kwargs = dict(mode="few_steps", skip_type="time", skip_order=1, predictor_order=2, corrector_order=2, pc_mode="PEC")
    x = solver.sample(x=start, tau=tau, steps=steps, **kwargs)
    return [*seen[1:], x]


def official(repos):
    """The four files, without the packages around them."""
    root = repos / "DreamClear" / "diffusion"
    for name, path in [("diffusion", root), ("diffusion.model", root / "model")]:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    from diffusion import iddpm
    from diffusion.model import dpm_solver, gaussian_diffusion, sa_solver

    for module in (dpm_solver, sa_solver):
        module.tqdm = lambda x: x
    return types.SimpleNamespace(iddpm=iddpm, dpm=dpm_solver, sa=sa_solver, gaussian=gaussian_diffusion)


def unrounded(arr, timesteps, shape):
    """`_extract_into_tensor` without its cast to f32."""
    return torch.from_numpy(arr)[timesteps].reshape(-1, *[1] * (len(shape) - 1)).expand(shape)


def trajectory(official, kind, steps, noises, dtype, eta):
    torch.set_default_dtype(dtype)
    wide = dtype == torch.float64
    rounded = official.gaussian._extract_into_tensor
    official.gaussian._extract_into_tensor = unrounded if wide else rounded
    randn_like = torch.randn_like
    torch.randn_like = Replay(noises[1:], dtype)
    start = torch.from_numpy(noises[0]).to(dtype)
    try:
        if kind in ("iddpm", "iddpm_fixed", "ddim"):
            states = ancestral(official, kind, dtype, steps, start, noises, eta)
        elif kind == "dpm++":
            states = dpm(official, dtype, steps, start)
        elif kind == "dpm++sde":
            states = sde(official, dtype, steps, start, noises[1:])
        else:
            torch.randn_like.noises.insert(0, None)  # drawn before the first call, never used
            states = sa(official, dtype, steps, start, eta)
    finally:
        torch.randn_like = randn_like
        official.gaussian._extract_into_tensor = rounded
        torch.set_default_dtype(torch.float32)
    assert len(states) == steps and all(s.dtype == dtype for s in states), (kind, len(states), states[0].dtype)
    return torch.stack(states).double()


KINDS = [("iddpm", None), ("iddpm_fixed", None), ("ddim", 0.0), ("ddim", 0.7), ("dpm++", None), ("dpm++sde", None)]
KINDS += [("sa", 0.0), ("sa", 1.0)]


def main():
    args = common.arguments(__doc__)
    modules = official(args.repos)
    arrays, cases = {}, {}
    for kind, eta in KINDS:
        for steps in (50, 20, 9, 4, 2):
            name = f"{kind}_{steps}" + ("" if eta is None else f"_eta{eta:g}")
            noises = normals(name, steps + 1)
            wide = trajectory(modules, kind, steps, noises, torch.float64, eta)
            narrow = trajectory(modules, kind, steps, noises, torch.float32, eta)
            noise = ((narrow - wide).flatten(1).norm(dim=1) / wide.flatten(1).norm(dim=1)).max().item()
            cases[name] = {"sampler": kind, "steps": steps, "eta": eta, "f32_noise": f"{noise:.1e}"}
            arrays[f"{name}.start"] = noises[0][0]
            # Only what is used: element 0 is the start.
            if kind.startswith("iddpm") or kind == "dpm++sde" or eta:
                arrays[f"{name}.noises"] = noises[1:, 0]
            arrays[f"{name}.states"] = wide[:, 0].float().numpy()
            print(f"{name:20} f32 noise {noise:.1e}  largest {wide.abs().max():.2f}")
    common.write(args.out / "samplers.safetensors", arrays, {"cases": cases, "script": "tools/golden/samplers.py"})


if __name__ == "__main__":
    main()
