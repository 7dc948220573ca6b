//! Batches: their arrays, their order, packing, and going on where a run stopped.

use std::collections::BTreeSet;

use mlx_diagnose::data::{Batch, BatchSettings, BatchState, Batches, BatchesError, Example, RowOrder};
use rstest::rstest;

type TestError = Box<dyn std::error::Error>;
type TestResult = Result<(), TestError>;

const SHUFFLED: BatchSettings = BatchSettings {
    batch_size: 4,
    order: RowOrder::Shuffled,
    seed: 7,
    pack_to: None,
};
const BY_LENGTH: BatchSettings = BatchSettings {
    order: RowOrder::ByLength,
    ..SHUFFLED
};
const PACKED: BatchSettings = BatchSettings {
    pack_to: Some(64),
    ..SHUFFLED
};

/// Between the ids of a row and the next.
const STRIDE: usize = 1000;

/// Rows of the given lengths; the tokens of row `n` are `1000 n`, `1000 n + 1`, ..., and from the third on are targets.
fn rows(lengths: &[usize]) -> Vec<Example> {
    lengths
        .iter()
        .enumerate()
        .map(|(row, &length)| Example {
            supervised: (0..length).map(|index| index >= 2).collect(),
            prompt_boundary: 2,
            ..Example::of_tokens((0..length).map(|index| (STRIDE * row + index) as u32).collect())
        })
        .collect()
}

#[test]
fn a_batch_is_padded_to_its_longest_row_and_padding_is_never_a_target() {
    let batch = Batch::new(&rows(&[3, 5, 1]), &[0, 1, 2]);
    assert_eq!(batch.shape(), [3, 5]);
    assert_eq!(
        batch.tokens,
        [0, 1, 2, 0, 0, 1000, 1001, 1002, 1003, 1004, 2000, 0, 0, 0, 0]
    );
    #[rustfmt::skip]
    let mask = [0., 0., 1., 0., 0., 0., 0., 1., 1., 1., 0., 0., 0., 0., 0.];
    assert_eq!(batch.mask, mask);
    assert_eq!(batch.lengths, [3, 5, 1]);
    assert_eq!(batch.token_count(), 9);
    assert_eq!(batch.supervised_tokens(), 4);
}

#[rstest]
#[case(10, 4)]
#[case(8, 4)]
#[case(3, 4)]
#[case(1, 1)]
fn every_epoch_takes_every_row_once(#[case] count: usize, #[case] batch_size: usize) {
    let examples = rows(&vec![3; count]);
    let mut batches = Batches::new(&examples, batch_size, 7);
    for _ in 0..5 {
        let epoch: Vec<Batch> = batches.by_ref().take(count.div_ceil(batch_size)).collect();
        let rows: Vec<usize> = epoch.iter().flat_map(|batch| batch.rows.clone()).collect();
        assert_eq!(rows.len(), count);
        assert_eq!(rows.iter().copied().collect::<BTreeSet<_>>(), (0..count).collect());
        assert!(epoch.iter().rev().skip(1).all(|batch| batch.rows.len() == batch_size));
    }
    assert_eq!(batches.per_epoch(), count.div_ceil(batch_size));
}

#[test]
fn the_seed_alone_decides_the_order() {
    let examples = rows(&[3; 20]);
    let order = |seed| -> Vec<usize> {
        Batches::new(&examples, 4, seed)
            .take(10)
            .flat_map(|batch| batch.rows)
            .collect()
    };
    assert_eq!(order(7), order(7));
    assert_ne!(order(7), order(8));
    let (first_epoch, second_epoch) = (order(7)[..20].to_vec(), order(7)[20..].to_vec());
    assert_ne!(first_epoch, second_epoch);
}

#[test]
fn the_order_is_that_of_the_published_generator() {
    // splitmix64 from 1234567 gives 6457827717110365317, 3203168211198807973, ...; each draw is scaled to what is left.
    let examples = rows(&[3; 3]);
    let draws = [6_457_827_717_110_365_317_u128, 3_203_168_211_198_807_973];
    let mut order = [0, 1, 2];
    order.swap(2, ((draws[0] * 3) >> 64) as usize);
    order.swap(1, ((draws[1] * 2) >> 64) as usize);
    order.reverse();
    let found: Vec<usize> = Batches::new(&examples, 1, 1_234_567)
        .take(3)
        .flat_map(|batch| batch.rows)
        .collect();
    assert_eq!(found, order);
}

#[test]
fn no_rows_make_no_batches() {
    assert_eq!(Batches::new(&[], 4, 0).next(), None);
}

/// Lengths as chat data has them: many short rows, few long ones, between 3 and 60 tokens.
fn uneven(count: usize) -> Vec<usize> {
    (0..count)
        .map(|row| 3 + (row * row * 31 + row * 7) % 58 * (row % 5) / 4)
        .collect()
}

fn batches(examples: &[Example], settings: BatchSettings) -> Result<Batches<'_>, BatchesError> {
    Batches::with_settings(examples, settings)
}

#[rstest]
#[case::shuffled(SHUFFLED)]
#[case::by_length(BY_LENGTH)]
#[case::given(BatchSettings { order: RowOrder::Given, ..SHUFFLED })]
#[case::packed(PACKED)]
#[case::packed_by_length(BatchSettings { pack_to: Some(100), ..BY_LENGTH })]
#[case::more_than_there_is(BatchSettings { batch_size: usize::MAX, ..BY_LENGTH })]
#[case::none_at_a_time(BatchSettings { batch_size: 0, ..SHUFFLED })]
fn no_row_is_lost_in_any_order(#[case] settings: BatchSettings) -> TestResult {
    let examples = rows(&uneven(57));
    let mut series = batches(&examples, settings)?;
    for epoch in 0..3 {
        assert_eq!(series.state().epoch, epoch);
        let mut found: Vec<usize> = Vec::new();
        let per_epoch = series.per_epoch();
        for batch in series.by_ref().take(per_epoch) {
            assert!(batch.rows.len() <= settings.batch_size.max(1));
            found.extend(batch.examples());
        }
        found.sort_unstable();
        assert_eq!(found, (0..57).collect::<Vec<_>>());
        assert_eq!(series.state().taken, series.per_epoch());
        series = Batches::from_state(&examples, settings, &series.state())?;
        // The position at the end of an epoch is followed by the first batch of the next.
        let mut ahead = series.clone();
        ahead.next().ok_or("no batch")?;
        assert_eq!(ahead.state().epoch, epoch + 1);
        assert_eq!(ahead.state().taken, 1);
        series = Batches::from_state(
            &examples,
            settings,
            &BatchState {
                taken: 0,
                ..ahead.state()
            },
        )?;
    }
    Ok(())
}

#[test]
fn rows_of_like_lengths_together_need_little_padding() -> TestResult {
    let examples = rows(&uneven(400));
    let padding = |settings| -> Result<(f64, f64), TestError> {
        let series = batches(&examples, settings)?;
        let epoch: Vec<Batch> = series.clone().take(series.per_epoch()).collect();
        let positions: usize = epoch.iter().map(|batch| batch.tokens.len()).sum();
        let padded: usize = epoch.iter().map(Batch::padding).sum();
        let tokens: usize = epoch.iter().map(Batch::token_count).sum();
        assert_eq!(tokens + padded, positions);
        Ok((series.padding_share(), padded as f64 / positions as f64))
    };
    let (announced, shuffled) = padding(SHUFFLED)?;
    assert_eq!(announced, shuffled);
    let (announced, by_length) = padding(BY_LENGTH)?;
    assert_eq!(announced, by_length);
    assert!(by_length < shuffled / 4.0, "{by_length} of {shuffled}");
    let (announced, packed) = padding(PACKED)?;
    assert_eq!(announced, packed);
    assert!(packed < shuffled / 4.0, "{packed} of {shuffled}");
    Ok(())
}

#[test]
fn batches_by_length_come_in_no_order_of_length_and_differ_between_epochs() -> TestResult {
    let examples = rows(&uneven(400));
    let mut series = batches(&examples, BY_LENGTH)?;
    let mut epoch = || -> Vec<Vec<usize>> { series.by_ref().take(100).map(|batch| batch.rows).collect() };
    let (first, second) = (epoch(), epoch());
    let longest: Vec<usize> = first
        .iter()
        .map(|rows| rows.iter().map(|&row| examples[row].tokens.len()).max())
        .map(Option::unwrap_or_default)
        .collect();
    assert!(!longest.is_sorted() && !longest.iter().rev().is_sorted());
    let as_sets = |epoch: &[Vec<usize>]| -> BTreeSet<BTreeSet<usize>> {
        epoch.iter().map(|rows| rows.iter().copied().collect()).collect()
    };
    assert!(as_sets(&first).intersection(&as_sets(&second)).count() < 50);
    Ok(())
}

#[rstest]
#[case(RowOrder::Shuffled)]
#[case(RowOrder::Given)]
fn batches_that_are_accumulated_hold_the_rows_of_one_large_batch(#[case] order: RowOrder) -> TestResult {
    let examples = rows(&uneven(48));
    let small = BatchSettings {
        batch_size: 2,
        order,
        ..SHUFFLED
    };
    let large = BatchSettings { batch_size: 8, ..small };
    let small: Vec<usize> = batches(&examples, small)?
        .take(72)
        .flat_map(|batch| batch.rows)
        .collect();
    let large: Vec<usize> = batches(&examples, large)?
        .take(18)
        .flat_map(|batch| batch.rows)
        .collect();
    assert_eq!(small, large);
    Ok(())
}

#[rstest]
#[case::shuffled(SHUFFLED)]
#[case::by_length(BY_LENGTH)]
#[case::given(BatchSettings { order: RowOrder::Given, ..SHUFFLED })]
#[case::packed(PACKED)]
fn a_series_goes_on_from_any_saved_position(#[case] settings: BatchSettings) -> TestResult {
    let examples = rows(&uneven(57));
    let mut uninterrupted = batches(&examples, settings)?;
    for _ in 0..40 {
        let saved = serde_json::to_string(&uninterrupted.state())?;
        let state: BatchState = serde_json::from_str(&saved)?;
        let mut resumed = Batches::from_state(&examples, settings, &state)?;
        assert_eq!(resumed.state(), state);
        let mut ahead = uninterrupted.clone();
        for _ in 0..40 {
            assert_eq!(resumed.next(), ahead.next());
        }
        uninterrupted.next();
    }
    Ok(())
}

#[test]
fn a_saved_position_is_small_and_keeps_its_form() -> TestResult {
    let examples = rows(&uneven(57));
    let mut series = batches(&examples, PACKED)?;
    series.by_ref().take(3).for_each(drop);
    let mut saved = serde_json::to_value(series.state())?;
    // FNV-1a over every length, token and target is checked by itself below.
    saved["fingerprint"] = "".into();
    assert_eq!(
        saved,
        serde_json::json!({
            "settings": {"batch_size": 4, "order": "shuffled", "seed": 7, "pack_to": 64},
            "examples": 57,
            "fingerprint": "",
            "generator": 7,
            "epoch": 0,
            "taken": 3,
        })
    );
    let strange = saved.to_string().replace("\"epoch\"", "\"epcoh\"");
    assert!(serde_json::from_str::<BatchState>(&strange).is_err());
    Ok(())
}

#[test]
fn the_fingerprint_is_the_published_hash_of_lengths_tokens_and_targets() {
    // FNV-1a of "foobar" is 85944171f73967e8, from the authors' test vectors.
    assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    let row = [2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 6, 0, 0, 0, 1];
    let examples = [Example::of_tokens(vec![5, 6])];
    assert_eq!(
        Batches::in_order(&examples, 1).state().fingerprint,
        format!("{:016x}", fnv(&row))
    );
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(14_695_981_039_346_656_037, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211)
    })
}

#[rstest]
#[case::batch_size(57, BatchSettings { batch_size: 5, ..SHUFFLED }, "batches of 5, shuffled, seed 7")]
#[case::seed(57, BatchSettings { seed: 8, ..SHUFFLED }, "seed 8")]
#[case::order(57, BY_LENGTH, "by length")]
#[case::packing(57, PACKED, "packed to 64 tokens")]
#[case::fewer_rows(56, SHUFFLED, "56 examples")]
fn another_run_is_not_gone_on_with(
    #[case] count: usize,
    #[case] settings: BatchSettings,
    #[case] expected: &str,
) -> TestResult {
    let examples = rows(&uneven(57));
    let state = batches(&examples, SHUFFLED)?.state();
    let refusal = Batches::from_state(&examples[..count], settings, &state).map(drop);
    let message = refusal.err().ok_or("accepted")?.to_string();
    let found = message
        .lines()
        .find(|line| line.starts_with("  expected: "))
        .ok_or("no line")?;
    assert!(found.contains(expected), "{message}");
    Ok(())
}

#[test]
fn a_changed_token_a_changed_target_and_a_position_beyond_the_epoch_are_refused() -> TestResult {
    let examples = rows(&uneven(57));
    let state = batches(&examples, SHUFFLED)?.state();
    let mut other_token = examples.clone();
    other_token[56].tokens[2] += 1;
    let mut other_target = examples.clone();
    other_target[0].supervised[2] = false;
    for changed in [other_token, other_target] {
        let refusal = Batches::from_state(&changed, SHUFFLED, &state).map(drop);
        assert!(matches!(refusal, Err(BatchesError::OtherRun { .. })), "{refusal:?}");
    }
    let beyond = BatchState { taken: 16, ..state };
    let message = Batches::from_state(&examples, SHUFFLED, &beyond)
        .map(drop)
        .err()
        .ok_or("accepted")?
        .to_string();
    assert!(
        message.contains("found: 16 batches of an epoch taken\n  expected: at most 15"),
        "{message}"
    );
    Ok(())
}

#[test]
fn packed_rows_hold_their_examples_end_to_end_and_say_where_each_is() -> TestResult {
    let mut examples = rows(&[3, 5, 1, 4]);
    for example in &mut examples {
        example.supervised.fill(true);
    }
    let batch = Batch::packed(&examples, &[&[0, 2, 3], &[1]]);
    assert_eq!(batch.shape(), [2, 8]);
    assert_eq!(batch.tokens[..8], [0, 1, 2, 2000, 3000, 3001, 3002, 3003]);
    assert_eq!(batch.tokens[8..], [1000, 1001, 1002, 1003, 1004, 0, 0, 0]);
    let documents = batch.documents.as_ref().ok_or("no documents")?;
    assert_eq!(documents.of_tokens, [0, 0, 0, 1, 2, 2, 2, 2, 0, 0, 0, 0, 0, -1, -1, -1]);
    assert_eq!(documents.examples, [vec![0, 2, 3], vec![1]]);
    // Column 0 is predicted by nothing; the others' first tokens would be predicted by another document.
    assert_eq!(batch.mask[1..8], [1., 1., 0., 0., 1., 1., 1.]);
    assert_eq!(batch.mask[9..], [1., 1., 1., 1., 0., 0., 0.]);
    assert_eq!(batch.rows, [0, 1]);
    assert_eq!(batch.lengths, [8, 5]);
    assert_eq!(batch.examples(), [0, 2, 3, 1]);
    assert_eq!(batch.positions(), [0, 1, 2, 0, 0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0, 0]);
    Ok(())
}

#[test]
fn packed_targets_are_those_of_the_examples_alone() -> TestResult {
    let examples = rows(&uneven(57));
    let targets = |batch: &Batch| -> BTreeSet<i32> {
        let counted = batch.tokens.iter().zip(&batch.mask).filter(|(_, mask)| **mask > 0.0);
        counted.map(|(&token, _)| token).collect()
    };
    let every = |settings| -> Result<BTreeSet<i32>, TestError> {
        let series = batches(&examples, settings)?;
        Ok(series
            .clone()
            .take(series.per_epoch())
            .flat_map(|batch| targets(&batch))
            .collect())
    };
    assert_eq!(every(PACKED)?, every(SHUFFLED)?);
    Ok(())
}

#[test]
fn packs_are_full_but_for_few_and_never_too_full() -> TestResult {
    let examples = rows(&uneven(1000));
    let series = batches(
        &examples,
        BatchSettings {
            batch_size: 1,
            ..PACKED
        },
    )?;
    let lengths: Vec<usize> = series
        .clone()
        .take(series.per_epoch())
        .map(|batch| batch.token_count())
        .collect();
    assert!(lengths.iter().all(|&tokens| tokens <= 64));
    let fewest = examples
        .iter()
        .map(|example| example.tokens.len())
        .sum::<usize>()
        .div_ceil(64);
    // Best fit decreasing needs at most 11/9 of the fewest possible, and one more (Johnson 1973).
    assert!(
        lengths.len() <= fewest * 11 / 9 + 1,
        "{} rows, at least {fewest}",
        lengths.len()
    );
    Ok(())
}

#[test]
fn a_small_packing_is_the_one_done_by_hand() -> TestResult {
    // Longest first: 7 | 6 | 5 beside nothing | 4 beside 6 | 3 beside 7 | 3 beside 5 | 2 with 5 and 3 | 2 of its own.
    let examples = rows(&[3, 7, 2, 6, 5, 2, 4, 3]);
    let settings = BatchSettings {
        batch_size: 1,
        order: RowOrder::Given,
        seed: 0,
        pack_to: Some(10),
    };
    let series = batches(&examples, settings)?;
    let packs: Vec<Vec<usize>> = series
        .clone()
        .take(series.per_epoch())
        .map(|batch| batch.examples())
        .collect();
    assert_eq!(packs, [vec![0, 1], vec![2, 4, 7], vec![3, 6], vec![5]]);
    Ok(())
}

#[test]
fn a_row_longer_than_a_packed_row_is_refused() -> TestResult {
    let examples = rows(&[3, 70]);
    let message = batches(&examples, PACKED)
        .map(drop)
        .err()
        .ok_or("accepted")?
        .to_string();
    assert!(
        message.starts_with("row 2 is too long to be packed\n  found: 70 tokens\n  expected: at most 64"),
        "{message}"
    );
    Ok(())
}

#[test]
fn rows_selected_from_a_packed_batch_keep_their_documents() {
    let examples = rows(&[3, 5, 1, 4]);
    let batch = Batch::packed(&examples, &[&[0, 2, 3], &[1]]);
    assert_eq!(batch.select(&[1]), Batch::packed(&examples, &[&[1]]));
    assert_eq!(batch.select(&[1, 0]), Batch::packed(&examples, &[&[1], &[0, 2, 3]]));
}

#[rstest]
fn a_batch_is_dealt_out_whole_and_by_tokens(#[values(1, 2, 3, 4, 7)] count: usize) {
    let lengths = [3, 9, 4, 4, 8, 2];
    let examples = rows(&lengths);
    let batch = Batch::new(&examples, &[0, 1, 2, 3, 4, 5]);
    let parts = batch.deal(count);
    assert_eq!(parts.len(), count);
    let mut dealt: Vec<usize> = parts.iter().flat_map(|part| part.rows.clone()).collect();
    dealt.sort_unstable();
    assert_eq!(dealt, [0, 1, 2, 3, 4, 5]);
    let tokens = |part: &Batch| part.token_count();
    let (most, least) = (parts.iter().map(tokens).max(), parts.iter().map(tokens).min());
    // Longest first: no two parts differ by more than the longest row.
    assert!(most.unwrap() - least.unwrap() <= 9, "{parts:?}");
    let supervised: usize = parts.iter().map(Batch::supervised_tokens).sum();
    assert_eq!(supervised, batch.supervised_tokens());
    for part in parts {
        assert_eq!(part, Batch::new(&examples, &part.rows));
    }
}

#[test]
fn positions_without_packing_count_through_each_row() {
    let batch = Batch::new(&rows(&[3, 5]), &[0, 1]);
    assert_eq!(batch.positions(), [0, 1, 2, 0, 0, 0, 1, 2, 3, 4]);
}
