//! Encryption of segments: each has a key of its own, which only the factory can unwrap.
//!
//! RFC 9180 (HPKE) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305 wraps the key; info
//! is [`INFO`], associated data are appliance and epoch. Frames are ChaCha20-Poly1305 (RFC 8439).

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};

use crate::segment::{FrameHead, TAG_BYTES, WrappedKey};

/// What the wrapping of keys is bound to.
pub const INFO: &[u8] = b"outstation segment key v1";

/// Why something cannot be encrypted or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The factory's public key is none.
    #[error("the factory's public key cannot be used: enrol the box anew")]
    PublicKey,
    /// The segment is for another factory, or was changed.
    #[error(
        "the segment's key cannot be unwrapped: it was wrapped for another factory, or changed"
    )]
    Unwrap,
    /// A frame was changed.
    #[error("record {record_seq} does not decrypt: the segment was changed")]
    Frame {
        /// Which.
        record_seq: u64,
    },
}

/// The key of one segment.
pub struct SegmentKey(LessSafeKey);

impl std::fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SegmentKey")
    }
}

impl SegmentKey {
    /// A key from random bytes, and itself encrypted to the factory.
    pub fn wrap(
        secret: [u8; 32],
        appliance: &[u8; 16],
        epoch: &[u8; 16],
        factory: &[u8; 32],
    ) -> Result<(Self, WrappedKey), SealError> {
        let public = HpkePublicKey(factory.to_vec());
        let (encapsulated, ciphertext) = SUITE
            .seal(INFO, &associated_data(appliance, epoch), &secret, &public)
            .map_err(|_| SealError::PublicKey)?;
        let wrapped = WrappedKey {
            recipient: recipient(factory),
            encapsulated: sized(&encapsulated.0).ok_or(SealError::PublicKey)?,
            ciphertext: sized(&ciphertext).ok_or(SealError::PublicKey)?,
        };
        Ok((Self::new(secret), wrapped))
    }

    fn new(secret: [u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &secret).expect("it has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts a record where it lies: `buffer` holds it, and room for the tag at the end. Uses no heap.
    pub fn seal(&self, head: &FrameHead, buffer: &mut [u8]) {
        let (record, tag_place) = buffer.split_at_mut(buffer.len() - TAG_BYTES);
        let nonce = Nonce::assume_unique_for_key(head.nonce());
        let aad = Aad::from(head.associated_data());
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, aad, record)
            .expect("a record is shorter than 256 GiB");
        tag_place.copy_from_slice(tag.as_ref());
    }

    /// Decrypts a record where it lies.
    pub fn open<'a>(
        &self,
        head: &FrameHead,
        ciphertext: &'a mut [u8],
    ) -> Result<&'a [u8], SealError> {
        let nonce = Nonce::assume_unique_for_key(head.nonce());
        let aad = Aad::from(head.associated_data());
        let record = self.0.open_in_place(nonce, aad, ciphertext);
        record.map(|record| &*record).map_err(|_| SealError::Frame {
            record_seq: head.record_seq,
        })
    }
}

/// The factory's side of the keys.
pub struct FactoryKey {
    secret: HpkePrivateKey,
    public: [u8; 32],
}

impl std::fmt::Debug for FactoryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FactoryKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl Clone for FactoryKey {
    fn clone(&self) -> Self {
        Self {
            secret: HpkePrivateKey::from(self.secret.secret_bytes().to_vec()),
            public: self.public,
        }
    }
}

impl FactoryKey {
    /// A new one.
    pub fn generate() -> Self {
        let (public, secret) = SUITE
            .generate_key_pair()
            .expect("the system has random bytes");
        Self {
            secret,
            public: sized(&public.0).expect("X25519 has keys of 32 bytes"),
        }
    }

    /// From what [`secret_bytes`](Self::secret_bytes) and [`public`](Self::public) gave.
    pub fn from_bytes(secret: [u8; 32], public: [u8; 32]) -> Self {
        Self {
            secret: HpkePrivateKey::from(secret.to_vec()),
            public,
        }
    }

    /// What boxes encrypt to.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// What must stay at the factory.
    pub fn secret_bytes(&self) -> &[u8] {
        self.secret.secret_bytes()
    }

    /// Whether a segment's key was wrapped for this one.
    pub fn is_recipient(&self, key: &WrappedKey) -> bool {
        key.recipient == recipient(&self.public)
    }

    /// The key of a segment.
    pub fn unwrap(
        &self,
        key: &WrappedKey,
        appliance: &[u8; 16],
        epoch: &[u8; 16],
    ) -> Result<SegmentKey, SealError> {
        let encapsulated = EncapsulatedSecret(key.encapsulated.to_vec());
        let secret = SUITE
            .open(
                &encapsulated,
                INFO,
                &associated_data(appliance, epoch),
                &key.ciphertext,
                &self.secret,
            )
            .map_err(|_| SealError::Unwrap)?;
        Ok(SegmentKey::new(sized(&secret).ok_or(SealError::Unwrap)?))
    }
}

/// Bytes from the system's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

fn recipient(public: &[u8; 32]) -> [u8; 8] {
    let digest = blake3::hash(public);
    *digest
        .as_bytes()
        .first_chunk()
        .expect("a digest has 32 bytes")
}

fn associated_data(appliance: &[u8; 16], epoch: &[u8; 16]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(appliance);
    bytes[16..].copy_from_slice(epoch);
    bytes
}

fn sized<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}
