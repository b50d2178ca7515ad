//! Sums, bytes and shares on ranks that are threads.

use super::*;
use crate::kernels::cuda::{Stream, emulated};
use std::collections::BTreeMap;
use std::thread;

/// What `work` gives on each of so many ranks that reach each other through the stand-in for NCCL. `None` where there is
/// no compiler for it.
fn on_gpus<T: Send>(size: usize, work: impl Fn(Ranks) -> T + Sync) -> Option<Vec<T>> {
    let nccl = emulated::nccl()?.unwrap();
    let id = nccl.id().unwrap();
    let rank = |rank| work(over_gpus::joined(&nccl, id, [rank, size], emulated::device().unwrap()).unwrap());
    Some(thread::scope(|scope| {
        let rank = &rank;
        let running: Vec<_> = (0..size).map(|number| scope.spawn(move || rank(number))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    }))
}

/// Sums and bytes on a rank: gives a sum.
fn sums_and_bytes(ranks: &Ranks) -> Vec<f32> {
    let size = ranks.size();
    let mut sum = values_of(ranks.rank());
    ranks.sum_f32(&mut sum).unwrap();
    let mut count = [ranks.rank() as f64];
    ranks.sum_f64(&mut count).unwrap();
    assert_eq!(count, [(size * (size - 1) / 2) as f64]);
    assert_eq!(ranks.largest([ranks.rank() as f64, -1.0]).unwrap(), [(size - 1) as f64, -1.0]);
    // Rank 0 gives nothing.
    let all = ranks.gather(&vec![ranks.rank() as u8; ranks.rank()]).unwrap();
    assert!(all.iter().enumerate().all(|(rank, bytes)| *bytes == vec![rank as u8; rank]));
    assert_eq!(ranks.broadcast(vec![ranks.rank() as u8 + 5; 3]).unwrap(), [5; 3]);
    ranks.rest().unwrap();
    ranks.sum_f32(&mut []).unwrap();
    sum
}

fn values_of(rank: usize) -> Vec<f32> {
    (0..7).map(|i| (i * 31 + rank * 17) as f32 / 8.0).collect()
}

#[test]
fn every_rank_gets_the_sum_and_the_bytes_of_all() {
    let wanted = |size| (0..7).map(|i| (0..size).map(|rank| values_of(rank)[i]).sum()).collect::<Vec<f32>>();
    for size in 1..=9 {
        let (found, wanted) = (on_threads(size, |ranks| sums_and_bytes(&ranks)), wanted(size));
        assert!(found.iter().all(|sum| *sum == wanted), "{size} ranks: {found:?}, {wanted:?}");
    }
    for size in [1, 2, 3, 4, 6] {
        let Some(found) = on_gpus(size, |ranks| sums_and_bytes(&ranks)) else { return };
        let wanted = wanted(size);
        assert!(found.iter().all(|sum| *sum == wanted), "{size} ranks with GPUs: {found:?}, {wanted:?}");
    }
}

#[test]
fn more_than_fits_the_buffer_of_a_gpu_is_sent_in_parts_and_bits_stay() {
    // Bytes of every length by four, and values that are no numbers.
    let bytes = |rank: usize| (0..2_300_003 + rank).map(|i| (i * 7 + i / 251 + rank) as u8).collect::<Vec<u8>>();
    let found = on_gpus(3, |ranks| {
        let all = ranks.gather(&bytes(ranks.rank())).unwrap();
        assert!(all.iter().enumerate().all(|(rank, found)| *found == bytes(rank)));
        let mut sum = vec![1.0f32; 600_001];
        sum[7] = ranks.rank() as f32;
        ranks.sum_f32(&mut sum).unwrap();
        ranks.units_f64(&[f64::NAN, ranks.rank() as f64]).unwrap();
        sum
    });
    let Some(found) = found else { return };
    let ok = |(i, value): (usize, &f32)| *value == 3.0 || i == 7;
    assert!(found.iter().all(|sum| sum[7] == 3.0 && sum.iter().enumerate().all(ok)));
}

/// What lies on GPUs is added there, whether MPI or NCCL reached the ranks.
#[test]
fn gpus_add_what_lies_in_their_memory() {
    if emulated::device().is_none() {
        return;
    }
    let work = |ranks: Ranks| {
        let mut device = emulated::device().unwrap();
        let (rank, size) = (ranks.rank(), ranks.size() as f32);
        device.reserve(50_000).unwrap();
        let own: Vec<f32> = (0..50_000).map(|i| (i % 1000 + rank) as f32).collect();
        device.upload(0, &own).unwrap();
        let gpus = ranks.gpus(&device, || emulated::nccl().unwrap()).unwrap();
        let started = gpus.communicator().sum(&device, Stream::Main, &[(10, 30_000), (30_010, 10_000)]);
        let started = started.and_then(|()| gpus.communicator().broadcast(&device, Stream::Main, (45_000, 1000)));
        gpus.finish(&device, started.map_err(RankError::from)).unwrap();
        let mut found = vec![0.0; 50_000];
        device.download(0, &mut found).unwrap();
        let (ranks, first) = (size * (size - 1.0) / 2.0, |i: usize| (i % 1000) as f32);
        let wanted = |i: usize| match i {
            10..40_010 => size * first(i) + ranks,
            45_000..46_000 => first(i),
            _ => own[i],
        };
        assert!(found.iter().enumerate().all(|(i, value)| *value == wanted(i)), "rank {rank}");
        found
    };
    let (by_threads, by_gpus) = (on_threads(3, work), on_gpus(3, work).unwrap());
    assert_eq!(by_threads, by_gpus);
}

#[test]
fn a_rank_that_leaves_is_an_error_of_those_that_wait_for_it() {
    let found = on_gpus(3, |ranks| {
        ranks.rest()?;
        if ranks.rank() == 1 {
            ranks.abort(1);
        }
        ranks.rest()
    });
    for (rank, ended) in found.into_iter().flatten().enumerate() {
        match ended {
            Err(RankError::Gpus(NcclError::Call { .. })) if rank == 1 => {}
            Err(RankError::Gpus(NcclError::Broken(problem))) if rank != 1 => {
                assert!(problem.contains("remote"), "{problem}")
            }
            other => panic!("rank {rank}: {other:?}"),
        }
    }
}

#[test]
fn a_launcher_that_names_no_place_to_meet_is_told_what_to_set() {
    let launched = Launched { launcher: "srun", rank: 0, size: 2, local: None, meeting: None };
    let never = || -> Result<(Nccl, Device), NcclError> { unreachable!("nothing is opened") };
    let text = Ranks::over_gpus(&launched, never).unwrap_err().to_string();
    assert!(text.contains("srun has started 2 processes") && text.contains("MASTER_ADDR"), "{text}");
    // Nobody may change the environment of a process that has threads.
    let launched = Launched { launcher: "torchrun", meeting: Some("node7:29401".into()), ..launched };
    let text = Ranks::over_gpus(&launched, never).unwrap_err().to_string();
    assert!(text.ends_with("start them with NCCL_COMM_ID=node7:29401"), "{text}");
}

/// Sums over images have the same bits on one, two and four ranks.
#[test]
fn sums_do_not_depend_on_the_number_of_ranks() {
    let value = |image: usize| (1.0 + image as f32 * 0.7).sin() * 10f32.powi(image as i32 % 5);
    for images in 4..=19 {
        let whole = |size: usize| {
            on_threads(size, |ranks| {
                let share = Share::new(&ranks, images);
                let (mut at, mut parts) = (share.range().start, Vec::new());
                for len in share.parts() {
                    parts.push(vec![(at..at + len).map(value).fold(0.0, |sum, value| sum + value)]);
                    at += len;
                }
                assert_eq!(at, share.range().end);
                let mut sum = tree(parts);
                ranks.sum_f32(&mut sum).unwrap();
                let own: Vec<f64> = share.range().flat_map(|image| [image as f64, f64::from(value(image))]).collect();
                let all = share.gather(own).unwrap();
                assert!((0..images).all(|image| all[2 * image] == image as f64), "{all:?}");
                sum[0].to_bits()
            })
        };
        let alone = whole(1)[0];
        assert!([2, 4].into_iter().flat_map(whole).all(|sum| sum == alone), "{images} images");
        let three = f32::from_bits(whole(3)[2]);
        assert!((three - f32::from_bits(alone)).abs() <= 1e-5 * three.abs().max(1.0), "{images} images");
    }
}

#[test]
fn units_of_work_come_back_in_their_order() {
    for (size, units) in [(1, 5), (2, 0), (2, 7), (3, 2), (4, 21)] {
        let found = on_threads(size, |ranks| {
            let mine: Vec<usize> = ranks.mine(units).collect();
            assert!(mine.len().abs_diff(units / size) <= 1);
            assert_eq!(ranks.units(mine.clone()).unwrap(), (0..units).collect::<Vec<_>>());
            let own: Vec<f64> = mine.iter().map(|unit| if *unit == 1 { f64::INFINITY } else { *unit as f64 }).collect();
            ranks.units_f64(&own).unwrap()
        });
        let wanted: Vec<f64> = (0..units).map(|unit| if unit == 1 { f64::INFINITY } else { unit as f64 }).collect();
        assert!(found.iter().all(|all| *all == wanted), "{units} units on {size} ranks: {found:?}");
    }
}

#[test]
fn the_first_rank_makes_what_all_get_and_others_find_what_it_wrote() {
    let written = std::sync::Mutex::new(Vec::new());
    let found = on_threads(3, |ranks| {
        let made = ranks.by_first(|| {
            assert!(ranks.is_first());
            Ok::<_, RankError>((0.1 + 0.2, "text".to_owned()))
        });
        let seen = ranks.in_turn(|| {
            let mut written = written.lock().unwrap();
            written.push(ranks.rank());
            Ok::<_, RankError>(written.clone())
        });
        let all = ranks.of_all(vec![ranks.rank(); 2]).unwrap();
        assert_eq!(all, [[0, 0], [1, 1], [2, 2]]);
        ranks.rest().unwrap();
        (made.unwrap(), seen.unwrap())
    });
    for (rank, (made, seen)) in found.into_iter().enumerate() {
        assert_eq!((made, seen), ((0.1 + 0.2, "text".to_owned()), (0..=rank).collect()));
    }
    // The others wait for a first rank that fails.
    let found = on_threads(2, |ranks| ranks.by_first(|| Err::<u8, _>(RankError::Library("fails"))));
    assert_eq!(found, [Err(RankError::Library("fails")), Err(RankError::Lost(0))]);
}

#[test]
fn a_rank_that_ends_is_an_error_of_the_others() {
    let found = on_threads(3, |ranks| if ranks.rank() == 1 { Ok(()) } else { ranks.rest() });
    assert!(found[1].is_ok());
    // Who notices first ends as well, and may be what another one misses.
    let lost = |rank: usize| matches!(found[rank], Err(RankError::Lost(other)) if other != rank);
    assert!(lost(0) && lost(2) && [0, 2].iter().any(|rank| found[*rank] == Err(RankError::Lost(1))), "{found:?}");
}

#[test]
fn launchers_are_known_by_their_environment() {
    let read = |pairs: &[(&'static str, &str)]| {
        let variables: BTreeMap<&str, &str> = pairs.iter().copied().collect();
        Launched::read(&|name| variables.get(name).map(|value| (*value).to_owned()))
    };
    let launched = |launcher, rank, size, local| Ok(Some(Launched { launcher, rank, size, local, meeting: None }));
    assert_eq!(read(&[]), Ok(None));
    assert_eq!(read(&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3")]), launched("mpirun", 3, 4, None));
    assert_eq!(
        read(&[("PMI_SIZE", "2"), ("PMI_RANK", "1"), ("MPI_LOCALRANKID", "0")]),
        launched("mpiexec", 1, 2, Some(0))
    );
    let torchrun = [("WORLD_SIZE", "8"), ("RANK", "5"), ("LOCAL_RANK", "1")];
    assert_eq!(read(&torchrun), launched("torchrun", 5, 8, Some(1)));
    // A batch script of Slurm is no task of its job.
    assert_eq!(read(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")]), Ok(None));
    let step = [("SLURM_NTASKS", "8"), ("SLURM_STEP_NUM_TASKS", "6"), ("SLURM_PROCID", "5"), ("SLURM_LOCALID", "1")];
    assert_eq!(read(&step), launched("srun", 5, 6, Some(1)));
    assert!(read(&[("WORLD_SIZE", "two")]).is_err());
    assert!(read(&[("WORLD_SIZE", "2"), ("RANK", "2")]).is_err());
}

#[test]
fn several_processes_without_mpi_are_refused_in_plain_words() {
    if HAS_MPI {
        return;
    }
    let launched = Launched { launcher: "torchrun", rank: 0, size: 8, local: None, meeting: None };
    let text = mpi::join(&launched).unwrap_err().to_string();
    assert!(text.contains("torchrun has started 8 processes") && text.contains("--features mpi"), "{text}");
}

#[test]
fn ranks_meet_where_their_launcher_says() {
    let meeting = |pairs: &[(&'static str, &str)]| {
        let variables: BTreeMap<&str, &str> = pairs.iter().copied().collect();
        Launched::read(&|name| variables.get(name).map(|value| (*value).to_owned())).unwrap().unwrap().meeting
    };
    let torchrun = [("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "node7"), ("MASTER_PORT", "29400")];
    assert_eq!(meeting(&torchrun).as_deref(), Some("node7:29400"));
    // Its agents listen there.
    let agent = [&torchrun[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat();
    assert_eq!(meeting(&agent).as_deref(), Some("node7:29401"));
    let v6 = [("WORLD_SIZE", "2"), ("MASTER_ADDR", "fe80::1"), ("MASTER_PORT", "1")];
    assert_eq!(meeting(&v6).as_deref(), Some("[fe80::1]:1"));
    assert_eq!(meeting(&torchrun[..3]), None);
    for (list, first) in [("gpu[003-006,009],cpu1", "gpu003"), ("a,b[1-2]", "a"), ("one", "one"), ("n[7]", "n7")] {
        let step = [("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_STEP_NODELIST", list), ("SLURM_JOB_ID", "123456")];
        let at = meeting(&step).unwrap();
        let (host, port) = at.split_once(':').unwrap();
        assert_eq!(host, first);
        assert!((12_000..32_000).contains(&port.parse().unwrap()), "{at}");
        let next = [&step[..], &[("SLURM_STEP_ID", "1")]].concat();
        assert_ne!(meeting(&next).unwrap(), at, "steps of a job run side by side");
        let said = [&step[..], &[("MASTER_ADDR", "host"), ("MASTER_PORT", "5")]].concat();
        assert_eq!(meeting(&said).as_deref(), Some("host:5"));
    }
}
