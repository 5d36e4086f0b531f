//! An op that doubles its numbers by a kernel of the caller's choice, for kernels that err on purpose.

use std::fmt;

use dreamclear::Result;
use dreamclear::device::kernel::Launch;
use dreamclear::graph::cuda::CudaCall;
use dreamclear::graph::op::CpuCall;
use dreamclear::graph::{Array, Cost, Gradient, GradientContext, Op, Real, Reference, TensorType};
use dreamclear::ops::{Case, CaseInput, check_cuda};

/// How the kernel is launched.
type Launches = dyn Fn(&mut CudaCall) -> Result<Vec<Launch>, String> + Send + Sync;

struct Twice(Box<Launches>);

/// Runs what `launches` says over `n` numbers, under all schedules; an error says what went wrong.
pub fn check(
    n: usize,
    launches: impl Fn(&mut CudaCall) -> Result<Vec<Launch>, String> + Send + Sync + 'static,
) -> Result<(), String> {
    check_cuda::kernels(&Case::test("twice", Twice(Box::new(launches)), vec![CaseInput::normal([n])]))
}

impl fmt::Debug for Twice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Twice")
    }
}

impl Reference for Twice {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let x = &inputs[0];
        vec![Array::new(x.shape.clone(), x.data.iter().map(|&x| x + x).collect())]
    }
}

impl Op for Twice {
    fn name(&self) -> &'static str {
        "twice"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![inputs[0].clone()])
    }
    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("a test"))
    }
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(outputs[0].shape[0] as f64, inputs, outputs)
    }
    fn cpu(&self, _: CpuCall) -> Result<(), String> {
        unreachable!("a test of CUDA kernels")
    }
    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        (self.0)(call)
    }
}
