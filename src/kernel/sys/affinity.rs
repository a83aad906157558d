//! Threads for work that is too short to wait for a scheduler.

use std::mem::zeroed;
use std::os::unix::thread::JoinHandleExt;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};

use nix::libc::{
    CPU_CLR, CPU_COUNT, CPU_SETSIZE, cpu_set_t, pthread_setaffinity_np, sched_getaffinity,
    sched_getcpu, sched_setaffinity,
};

/// Starts a thread, and not on this thread's CPU if it may use another one. Left to the scheduler, it
/// may begin behind its maker on the same CPU, as where tasks are packed on few virtual ones, and stay
/// there until the next tick: 1.3 ms in the median. From then on it may be anywhere.
pub fn spawn_on_another_cpu<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let all = cpus();
    let (placed, told) = channel::<()>();
    let thread = thread::spawn(move || {
        // Until `placed` is dropped: to bind a thread that has ended is to bind the caller.
        let _ = told.recv();
        if let Some(all) = all {
            // SAFETY: a set of the size that is said. Should it fail, fewer CPUs will do.
            unsafe { sched_setaffinity(0, size_of_val(&all), &all) };
        }
        work()
    });
    if let Some(others) = all.and_then(without_this_one) {
        // SAFETY: the thread lives, since it waits for `placed`; a set of the size that is said. Should it
        // fail, the thread is where it would have been.
        unsafe { pthread_setaffinity_np(thread.as_pthread_t(), size_of_val(&others), &others) };
    }
    drop(placed);
    thread
}

/// The CPUs that this thread may use; `None` if they are too many for a set.
fn cpus() -> Option<cpu_set_t> {
    // SAFETY: a set of bits, of which none is a valid one, and which has the size that is said.
    unsafe {
        let mut cpus: cpu_set_t = zeroed();
        (sched_getaffinity(0, size_of::<cpu_set_t>(), &mut cpus) == 0).then_some(cpus)
    }
}

/// Without the CPU that this thread is on; `None` if no other is left.
fn without_this_one(mut cpus: cpu_set_t) -> Option<cpu_set_t> {
    // SAFETY: no arguments.
    let here = usize::try_from(unsafe { sched_getcpu() }).ok()?;
    if here >= CPU_SETSIZE as usize {
        return None;
    }
    // SAFETY: the set has a bit of this number.
    unsafe { CPU_CLR(here, &mut cpus) };
    (count(&cpus) > 0).then_some(cpus)
}

fn count(cpus: &cpu_set_t) -> i32 {
    // SAFETY: only reads the set.
    unsafe { CPU_COUNT(cpus) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cpus_but_one_are_elsewhere() {
        let all = cpus().expect("fewer than 1024 CPUs");
        let others = without_this_one(all).map_or(0, |others| count(&others));
        assert_eq!(others, count(&all) - 1);
    }

    #[test]
    fn afterwards_thread_and_maker_may_use_what_they_could() {
        let all = count(&cpus().expect("fewer than 1024 CPUs"));
        for _ in 0..100 {
            let its = spawn_on_another_cpu(cpus).join().expect("no panic").expect("a set");
            assert_eq!((count(&its), count(&cpus().expect("a set"))), (all, all));
        }
    }
}
