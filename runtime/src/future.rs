//! Awaiting several things in one task.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::Poll;

/// Which of two futures was done first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first one.
    First(A),
    /// The second one.
    Second(B),
}

/// Awaits the first of two futures to be done and drops the other. The first is asked first.
pub async fn select<A: Future, B: Future>(first: A, second: B) -> Either<A::Output, B::Output> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    poll_fn(|context| {
        if let Poll::Ready(output) = first.as_mut().poll(context) {
            return Poll::Ready(Either::First(output));
        }
        second.as_mut().poll(context).map(Either::Second)
    })
    .await
}

/// Awaits both futures.
pub async fn join<A: Future, B: Future>(first: A, second: B) -> (A::Output, B::Output) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut first_output, mut second_output) = (None, None);
    poll_fn(|context| {
        if first_output.is_none()
            && let Poll::Ready(output) = first.as_mut().poll(context)
        {
            first_output = Some(output);
        }
        if second_output.is_none()
            && let Poll::Ready(output) = second.as_mut().poll(context)
        {
            second_output = Some(output);
        }
        match (first_output.take(), second_output.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            (first, second) => {
                (first_output, second_output) = (first, second);
                Poll::Pending
            }
        }
    })
    .await
}

/// A future of [`join_all`] and, once it is done, its output.
enum Member<F: Future> {
    Pending(Pin<Box<F>>),
    Done(F::Output),
}

/// Awaits all futures; outputs come in the order of the futures. Each wake-up asks all that are not done: for many
/// futures spawn tasks instead.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut members: Vec<_> = futures.into_iter().map(|future| Member::Pending(Box::pin(future))).collect();
    poll_fn(|context| {
        let mut pending = false;
        for member in &mut members {
            if let Member::Pending(future) = member {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *member = Member::Done(output),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    let done = members.into_iter().filter_map(|member| match member {
        Member::Done(output) => Some(output),
        Member::Pending(_) => None,
    });
    done.collect()
}
