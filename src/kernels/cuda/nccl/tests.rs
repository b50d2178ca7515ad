//! The library against the stand-in, and without it.

use super::super::emulated;
use super::*;

#[test]
fn a_library_that_is_not_there_is_told_with_what_to_install() {
    let error = Nccl::open(Path::new("/nowhere/libnccl.so.2")).map(drop).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, NcclError::Missing(_)) && text.contains("/nowhere/libnccl.so.2"), "{text}");
    assert!(text.contains("libnccl2") && text.contains("nvidia-nccl-cu12"), "{text}");
}

#[test]
fn a_library_that_is_too_old_is_told_with_its_version() {
    assert_eq!([2708, 21_403, 23_007].map(version), [(2, 7), (2, 14), (2, 30)]);
    for (code, found) in [("2708", "it is 2.7"), ("21304", "it is 2.13")] {
        let Some(library) = emulated::nccl_library(&[&format!("VERSION={code}")]) else { return };
        let error = Nccl::open(&library).map(drop).unwrap_err();
        assert_eq!(error, NcclError::TooOld(found.into()));
        assert_eq!(error.to_string(), format!("NCCL is too old: {found}; 2.14 or later is needed"));
    }
    // Before 2.7 it could not send; a library that is another one has nothing of it.
    let error = Nccl::open(emulated::driver().unwrap()).map(drop).unwrap_err();
    assert_eq!(error, NcclError::TooOld("it has no ncclGetVersion".into()));
}

/// Two ranks of one process: their communicators, each with a device that has reserved some memory.
fn pair() -> Option<[(Communicator, Device); 2]> {
    let nccl = emulated::nccl()?.unwrap();
    let id = nccl.id().unwrap();
    assert_eq!(UniqueId::of(id.bytes()), Some(id));
    assert_eq!(UniqueId::of(&id.bytes()[1..]), None);
    let join = |rank| {
        let mut device = emulated::device().unwrap();
        device.reserve(100).unwrap();
        (nccl.join(id, rank, 2, &device).unwrap(), device)
    };
    Some(thread::scope(|scope| {
        let other = scope.spawn(move || join(1));
        [join(0), other.join().unwrap()]
    }))
}

#[test]
fn what_is_started_ends_when_all_ranks_have_started_it() {
    let Some([(first, mut one), (second, mut two)]) = pair() else { return };
    one.upload(0, &[1.0; 100]).unwrap();
    two.upload(0, &[2.0; 100]).unwrap();
    first.sum(&one, Stream::Main, &[(10, 50)]).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(!one.is_done().unwrap() && two.is_done().unwrap());
    second.sum(&two, Stream::Main, &[(10, 50)]).unwrap();
    let fine = || Ok::<_, NcclError>(());
    first.wait(&one, &fine).unwrap();
    second.wait(&two, &fine).unwrap();
    for (device, own) in [(&one, 1.0), (&two, 2.0)] {
        let mut found = [0.0; 100];
        device.download(0, &mut found).unwrap();
        assert!(found.iter().enumerate().all(|(i, value)| *value == if (10..60).contains(&i) { 3.0 } else { own }));
    }
}

#[test]
fn a_wait_ends_with_what_its_watch_says_and_nothing_is_started_any_more() {
    let Some([(first, one), (second, two)]) = pair() else { return };
    first.sum(&one, Stream::Main, &[(0, 100)]).unwrap();
    let ended = first.wait(&one, &|| Err(NcclError::Broken("rank 1 has ended".into())));
    assert_eq!(ended, Err(NcclError::Broken("rank 1 has ended".into())));
    assert!(one.is_done().unwrap(), "given up");
    let again = first.sum(&one, Stream::Main, &[(0, 100)]).unwrap_err().to_string();
    assert_eq!(again, "ncclAllReduce: the ranks were left after an error");
    // The other one hears of it.
    second.broadcast(&two, Stream::Main, (0, 100)).unwrap();
    let ended = second.wait(&two, &|| Ok::<_, NcclError>(())).unwrap_err().to_string();
    assert!(ended.starts_with("the other GPUs cannot be reached any more: remote process exited"), "{ended}");
}

/// Sums of the side stream begin with what the main stream has left, and the main stream goes on with them, where
/// both are told so. Where they are not, the emulated device and the stand-in show it: a sum takes what is there
/// early and writes late.
#[test]
fn the_streams_of_a_device_wait_for_each_other_only_where_they_are_told_to() {
    let Some(mut pair) = pair() else { return };
    pair.iter_mut().for_each(|(_, device)| device.open_side().unwrap());
    // Rank 0's value becomes everybody's, late, and is then added up in the side stream.
    let mut sums = |before: bool, after: bool| {
        for ((_, device), own) in pair.iter_mut().zip([5.0, 1.0]) {
            device.upload(0, &[own; 100]).unwrap();
        }
        let order = |told: bool, device: &Device, [first, then]: [Stream; 2]| {
            if told { device.order(first, then) } else { Ok(()) }
        };
        for (communicator, device) in &pair {
            communicator.broadcast(device, Stream::Main, (0, 100)).unwrap();
            order(before, device, [Stream::Main, Stream::Side]).unwrap();
            communicator.sum(device, Stream::Side, &[(0, 40), (40, 60)]).unwrap();
            order(after, device, [Stream::Side, Stream::Main]).unwrap();
        }
        pair.each_ref().map(|(_, device)| {
            let mut found = [0.0; 100];
            device.download(0, &mut found).unwrap();
            // Whatever was found, the next try begins when all has ended.
            device.order(Stream::Side, Stream::Main).unwrap();
            device.wait().unwrap();
            assert!(found.iter().all(|value| *value == found[0]), "{found:?}");
            found[0]
        })
    };
    for _ in 0..20 {
        assert_eq!(sums(true, true), [10.0; 2]);
    }
    let mut shows = |before, after| (0..200).any(|_| sums(before, after) != [10.0; 2]);
    assert!(shows(false, true), "a sum that begins too early is not seen");
    assert!(shows(true, false), "a sum that is not waited for is not seen");
}

#[test]
fn problems_are_those_that_the_library_tells() {
    let Some([(first, one), (_second, _two)]) = pair() else { return };
    let error = first.exchange(&one, 7, [0, 10], 10).unwrap_err().to_string();
    assert_eq!(error, "ncclSend: invalid argument: no such rank");
}
