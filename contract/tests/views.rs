//! Views that safe code can make up: no size wraps, and none that reaches outside its storage
//! becomes a checked verb.

use starling_contract::{Copy, DType, Error, Fill, HostStorage, Layout, Softmax, Verb, View};

fn view(dtype: DType, layout: Layout) -> View {
    View { storage: HostStorage::new(64).unwrap(), dtype, layout }
}

fn refused(view: View) {
    let text = format!("{view:?}");
    let fill = Verb::from(Fill { dst: view.clone(), value: 0.0 }).check();
    assert!(matches!(fill, Err(Error::Shape { .. })), "written: {text}");
    let dst = View { storage: HostStorage::new(64).unwrap(), ..view.clone() };
    let copy = Verb::from(Copy { src: view, dst }).check();
    assert!(matches!(copy, Err(Error::Shape { .. })), "read: {text}");
}

#[test]
fn nothing_outside_its_storage_is_checked() {
    const MAX: usize = usize::MAX;
    const HALF: usize = 1 << 63;
    let shapes: [(&[usize], &[isize], usize); 18] = [
        (&[65], &[1], 0),
        (&[4], &[-1], 2),
        (&[MAX], &[1], 0),
        (&[MAX], &[-1], 0),
        (&[MAX], &[-1], MAX),
        (&[MAX, MAX], &[1, -1], 8),
        // Products and sums that come back to something small when they wrap.
        (&[HALF, 2], &[2, 1], 0),
        (&[1 << 32, 1 << 32], &[1 << 32, 1], 0),
        (&[3], &[isize::MAX], 2),
        (&[3, 3], &[isize::MAX, isize::MIN], 2),
        (&[5], &[isize::MIN], 0),
        (&[2, 2], &[isize::MIN, isize::MIN], 0),
        (&[1], &[1], MAX),
        (&[1], &[1], MAX / 4 + 1),
        (&[1], &[1], HALF),
        (&[2], &[isize::MIN], HALF),
        (&[2], &[-1], MAX),
        (&[1; 8], &[isize::MAX; 8], MAX - 1),
    ];
    for (shape, strides, offset) in shapes {
        for dtype in [DType::F32, DType::F16, DType::U8] {
            let layout = Layout::new(shape, strides, offset);
            refused(view(dtype, layout));
        }
    }
    for shape in [&[MAX][..], &[MAX, 2], &[HALF, HALF, 2], &[2, MAX, 4]] {
        refused(view(DType::F32, Layout::contiguous(shape)));
    }
}

#[test]
fn more_elements_than_can_be_counted_are_refused_also_where_they_repeat_or_are_none() {
    let x = |shape: &[usize], strides: &[isize], offset| {
        view(DType::F32, Layout::new(shape, strides, offset))
    };
    for all in [
        x(&[1 << 61, 1 << 3], &[0, 0], 0),
        x(&[1 << 62], &[0], 0),
        x(&[usize::MAX, usize::MAX, 0], &[0, 0, 1], 0),
        x(&[0, 4], &[isize::MAX, 1], usize::MAX),
    ] {
        let softmax = Softmax { x: all.clone(), y: all.clone(), log: false };
        assert!(Verb::from(softmax).check().is_err(), "{all:?}");
    }
    // Nothing may begin anywhere that can be named.
    assert!(Verb::from(Fill { dst: x(&[0], &[1], 99), value: 0.0 }).check().is_ok());
}

#[test]
fn sizes_end_at_the_largest_number_and_do_not_wrap() {
    const MAX: usize = usize::MAX;
    let huge = Layout::contiguous(&[MAX, MAX, 3]);
    assert_eq!((huge.len(), huge.strides()), (MAX, &[isize::MAX, 3, 1][..]));
    assert_eq!(Layout::contiguous(&[MAX, 0, MAX]).len(), 0);
    assert!(Layout::contiguous(&[MAX, 0, MAX]).is_empty());
    assert_eq!(Layout::contiguous(&[1 << 32, 1 << 32]).reshape(&[]), None);
    let far = Layout::new(&[2, 3], &[isize::MAX, 1], MAX);
    assert_eq!(far.extent(), Some((isize::MAX, isize::MAX)));
    assert!(Layout::new(&[3], &[isize::MIN], 7).extent().is_some_and(|(low, _)| low < 0));
    for layout in [huge, far] {
        layout.slice(0, MAX, 1, isize::MIN);
        layout.is_contiguous();
        layout.may_overlap_itself();
        layout.broadcast_to(&[MAX, MAX, MAX]);
        layout.position(MAX - 1);
        assert_eq!(view(DType::F32, layout).bytes(), if layout == far { 24 } else { MAX });
        assert!(!view(DType::F32, layout).may_overlap(&view(DType::U8, layout)));
    }
}

#[test]
fn transfers_stay_inside_the_storage() {
    let x = |shape: &[usize], offset| {
        let strides = Layout::contiguous(shape).strides().to_vec();
        view(DType::F32, Layout::new(shape, &strides, offset))
    };
    assert_eq!(x(&[4], 12).contiguous_range("upload", 16).unwrap(), 48..64);
    assert_eq!(x(&[0], 99).contiguous_range("upload", 0).unwrap(), 0..0);
    for (view, len) in [
        (x(&[4], 13), 16),
        (x(&[4], usize::MAX), 16),
        (x(&[4], usize::MAX / 4 + 1), 16),
        (x(&[4], 0), 12),
        (x(&[usize::MAX], 0), usize::MAX),
        (x(&[1 << 62], 0), 0),
    ] {
        assert!(view.contiguous_range("upload", len).is_err(), "{view:?}");
    }
}
