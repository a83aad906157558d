//! Threads for work that is too short to wait for a scheduler.

use std::mem::size_of;
use std::os::unix::thread::JoinHandleExt;
use std::thread::{self, JoinHandle};

use nix::libc;

/// Starts a thread, and not on this thread's CPU if it may use another one. Left to the scheduler, it
/// may begin behind its maker on the same CPU, as where tasks are packed on few virtual ones, and stay
/// there until the next tick: 1.3 ms in the median.
pub fn spawn_elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let thread = thread::spawn(work);
    if let Some(cpus) = other_cpus() {
        // SAFETY: a thread that nobody has joined, and a set of the size that is said. Should it fail,
        // the thread is where it would have been.
        unsafe {
            libc::pthread_setaffinity_np(thread.as_pthread_t(), size_of_val(&cpus), &cpus);
        }
    }
    thread
}

/// The CPUs that this thread may use, without the one that it is on; `None` if none is left, or if they
/// are too many for a set.
fn other_cpus() -> Option<libc::cpu_set_t> {
    // SAFETY: a set of bits, of which none is a valid one; it has the size that is said, and room for
    // each CPU whose number is below the number of its bits.
    unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        let here = usize::try_from(libc::sched_getcpu()).ok()?;
        let known = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut cpus) == 0;
        if !known || here >= libc::CPU_SETSIZE as usize {
            return None;
        }
        libc::CPU_CLR(here, &mut cpus);
        (libc::CPU_COUNT(&cpus) > 0).then_some(cpus)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use nix::sched::{CpuSet, sched_getaffinity};
    use nix::unistd::Pid;

    use super::*;

    fn cpus() -> Vec<usize> {
        let set = sched_getaffinity(Pid::from_raw(0)).expect("an affinity");
        (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).expect("a number below")).collect()
    }

    /// With one CPU it is that one.
    #[test]
    fn a_thread_may_use_all_cpus_but_that_of_its_maker() {
        let ours = cpus();
        let (go, told) = channel();
        let thread = spawn_elsewhere(move || told.recv().map(|()| cpus()));
        go.send(()).expect("a thread that listens");
        let its = thread.join().expect("no panic").expect("told to go on");
        assert!(its.iter().all(|cpu| ours.contains(cpu)));
        assert_eq!(its.len(), (ours.len() - 1).max(1));
    }
}
