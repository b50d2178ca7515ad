//! Sums, bytes and shares on ranks that are threads.

use super::*;
use std::collections::BTreeMap;
use std::thread;

/// What `work` gives on each of so many ranks.
fn on<T: Send>(size: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = threads(size).into_iter().map(|ranks| scope.spawn(move || work(ranks))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn every_rank_gets_the_sum_and_the_bytes_of_all() {
    for size in 1..=9 {
        let values = |rank: usize| (0..7).map(|i| (i * 31 + rank * 17) as f32 / 8.0).collect::<Vec<f32>>();
        let wanted: Vec<f32> = (0..7).map(|i| (0..size).map(|rank| values(rank)[i]).sum()).collect();
        let found = on(size, |ranks| {
            let mut sum = values(ranks.rank());
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
        });
        assert!(found.iter().all(|sum| *sum == wanted), "{size} ranks: {found:?}, {wanted:?}");
    }
}

/// Sums over images have the same bits on one, two and four ranks.
#[test]
fn sums_do_not_depend_on_the_number_of_ranks() {
    let value = |image: usize| (1.0 + image as f32 * 0.7).sin() * 10f32.powi(image as i32 % 5);
    for images in 4..=19 {
        let whole = |size: usize| {
            on(size, |ranks| {
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
        let found = on(size, |ranks| {
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
    let found = on(3, |ranks| {
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
    let found = on(2, |ranks| ranks.by_first(|| Err::<u8, _>(RankError::Library("fails"))));
    assert_eq!(found, [Err(RankError::Library("fails")), Err(RankError::Lost(0))]);
}

#[test]
fn a_rank_that_ends_is_an_error_of_the_others() {
    let found = on(3, |ranks| if ranks.rank() == 1 { Ok(()) } else { ranks.rest() });
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
    let launched = |launcher, rank, size, local| Ok(Some(Launched { launcher, rank, size, local }));
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
    let launched = Launched { launcher: "torchrun", rank: 0, size: 8, local: None };
    let text = mpi::join(&launched).unwrap_err().to_string();
    assert!(text.contains("torchrun has started 8 processes") && text.contains("--features mpi"), "{text}");
}
