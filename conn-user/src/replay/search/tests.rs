use super::*;

#[test]
fn what_people_write_for_an_alert() {
    let id = AlertId(7);
    assert_eq!(Ask::read("a7"), Some(Ask::Id(id)));
    assert_eq!(Ask::read("143"), Some(Ask::Seq(143)));
    assert_eq!(Ask::read("752b100f-539cace2690-a7"), Some(Ask::Name("752b100f-539cace2690-a7".to_owned())));
    for wrong in ["", "a", "a-7", "7a", "x-a", "-", "a99999999999999999999"] {
        assert_eq!(Ask::read(wrong), None, "{wrong}");
    }
    assert!(Ask::Id(id).is(1, id, "x-a7") && !Ask::Seq(2).is(1, id, "x-a7") && Ask::Only.is(1, id, ""));
}
