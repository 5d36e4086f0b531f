//! How a tensor lies in memory: shape, strides and offset in elements.

/// A strided view of a buffer. Strides are in elements and never negative; 0 repeats an element
/// along an axis (broadcast).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// Elements to step for one index along each axis.
    pub strides: Vec<usize>,
    /// Element at which the view starts.
    pub offset: usize,
}

/// Row-major strides of a dense tensor.
pub fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1);
    }
    strides
}

impl Layout {
    /// A dense row-major tensor at the start of its buffer.
    pub fn dense(shape: &[usize]) -> Self {
        Layout { shape: shape.to_vec(), strides: dense_strides(shape), offset: 0 }
    }

    /// Number of elements of the view.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the view has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the elements lie row-major without gaps (at any offset). Strides of axes of
    /// extent 1 do not matter.
    pub fn is_dense(&self) -> bool {
        let mut expect = 1;
        for (&n, &s) in self.shape.iter().zip(&self.strides).rev() {
            if n != 1 && s != expect {
                return false;
            }
            expect *= n;
        }
        true
    }

    /// If all axes but the last fold into one "row" axis with a constant step, and the last axis
    /// is dense: `(rows, columns, row step)`. The layout that GEMM and row-wise kernels accept.
    pub fn as_rows(&self) -> Option<(usize, usize, usize)> {
        let Some((&cols, lead)) = self.shape.split_last() else { return Some((1, 1, 1)) };
        if cols != 1 && *self.strides.last().unwrap() != 1 {
            return None;
        }
        let mut step = None; // stride of the innermost non-trivial leading axis
        let mut expect = 0;
        for (&n, &s) in lead.iter().zip(&self.strides).rev() {
            if n == 1 {
                continue;
            }
            match step {
                None => step = Some(s),
                Some(_) if s != expect => return None,
                Some(_) => {}
            }
            expect = s * n;
        }
        Some((lead.iter().product(), cols, step.unwrap_or(cols)))
    }

    /// Elements from the view's start to one past its last element (0 if empty).
    pub fn span(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        1 + self.shape.iter().zip(&self.strides).map(|(&n, &s)| (n - 1) * s).sum::<usize>()
    }

    /// The same elements under another shape without a copy, if the strides allow it.
    pub fn reshape(&self, shape: &[usize]) -> Option<Layout> {
        debug_assert_eq!(self.len(), shape.iter().product::<usize>());
        if self.is_dense() {
            return Some(Layout { offset: self.offset, ..Layout::dense(shape) });
        }
        // Merge old axes into maximal uniformly strided groups, then split those.
        let mut groups: Vec<(usize, usize)> = Vec::new(); // (extent, stride of its last axis)
        for (&n, &s) in self.shape.iter().zip(&self.strides) {
            if n == 1 {
                continue;
            }
            match groups.last_mut() {
                Some((gn, gs)) if *gs == s * n => {
                    *gn *= n;
                    *gs = s;
                }
                _ => groups.push((n, s)),
            }
        }
        let mut strides = vec![0; shape.len()];
        let mut axis = shape.len();
        for &(extent, stride) in groups.iter().rev() {
            let (mut left, mut step) = (extent, stride);
            while left > 1 {
                axis = axis.checked_sub(1)?;
                let n = shape[axis];
                if left % n != 0 {
                    return None;
                }
                strides[axis] = step;
                step *= n;
                left /= n;
            }
        }
        if shape[..axis].iter().any(|&n| n != 1) {
            return None;
        }
        Some(Layout { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// Axes in another order.
    pub fn permute(&self, axes: &[usize]) -> Layout {
        Layout {
            shape: axes.iter().map(|&a| self.shape[a]).collect(),
            strides: axes.iter().map(|&a| self.strides[a]).collect(),
            offset: self.offset,
        }
    }

    /// `len` indices of `axis` from `start`.
    pub fn slice(&self, axis: usize, start: usize, len: usize) -> Layout {
        let mut out = self.clone();
        out.offset += start * out.strides[axis];
        out.shape[axis] = len;
        out
    }

    /// Repeats axes of extent 1 (and adds leading axes) to reach `shape`.
    pub fn broadcast(&self, shape: &[usize]) -> Option<Layout> {
        let lead = shape.len().checked_sub(self.shape.len())?;
        let mut strides = vec![0; shape.len()];
        for (i, (&n, &s)) in self.shape.iter().zip(&self.strides).enumerate() {
            match (n, shape[lead + i]) {
                (a, b) if a == b => strides[lead + i] = s,
                (1, _) => {}
                _ => return None,
            }
        }
        Some(Layout { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// The position in the buffer of the element at row-major index `i` of the view.
    pub fn position(&self, mut i: usize) -> usize {
        let mut at = self.offset;
        for (&n, &s) in self.shape.iter().zip(&self.strides).rev() {
            at += (i % n) * s;
            i /= n;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(l: &Layout) -> Vec<usize> {
        (0..l.len()).map(|i| l.position(i)).collect()
    }

    #[test]
    fn reshape_without_copy_keeps_every_element_in_place() {
        let qkv = Layout::dense(&[2, 5, 3, 4, 6]);
        let q = qkv.slice(2, 1, 1); // [2,5,1,4,6]
        let rows = q.reshape(&[10, 24]).unwrap();
        assert_eq!(positions(&q), positions(&rows));
        assert_eq!(rows.as_rows(), Some((10, 24, 72)));
        let back = rows.reshape(&[2, 5, 1, 4, 6]).unwrap();
        assert_eq!(positions(&q), positions(&back));
        assert!(qkv.permute(&[4, 3, 2, 1, 0]).reshape(&[6, 120]).is_none());
    }

    #[test]
    fn row_views() {
        assert_eq!(Layout::dense(&[3, 4, 5]).as_rows(), Some((12, 5, 5)));
        let s = Layout::dense(&[3, 4, 5]).slice(2, 1, 3);
        assert_eq!((s.as_rows(), s.is_dense(), s.span()), (Some((12, 3, 5)), false, 58));
        assert_eq!(Layout::dense(&[3, 4, 5]).slice(1, 0, 2).as_rows(), None);
        assert_eq!(Layout::dense(&[7]).broadcast(&[4, 7]).unwrap().as_rows(), Some((4, 7, 0)));
    }
}
