
/// x
pub async fn main() {}
